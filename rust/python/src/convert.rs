//! Values from Python's form to ours and back.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr, SocketAddrV6},
    time::Duration,
};

use pyo3::{PyResult, exceptions::PyValueError};
use whimbrel_engine::News;
use whimbrel_udp::{Pin, interface_index, interface_name};

pub(crate) type Address = (String, u16);

/// An address literal, for IPv6 with its zone: `fe80::1%wlan0`.
pub(crate) fn address((host, port): &Address) -> PyResult<SocketAddr> {
    let (literal, zone) = host.split_once('%').map_or((host.as_str(), None), |(literal, zone)| (literal, Some(zone)));
    let wrong = || PyValueError::new_err(format!("{host:?} is not an IP address"));
    match literal.parse().map_err(|_| wrong())? {
        IpAddr::V4(ip) => Ok(SocketAddr::new(ip.into(), *port)),
        IpAddr::V6(ip) => {
            let scope = match zone {
                Some(zone) => zone.parse().ok().or_else(|| interface_index(zone)).ok_or_else(wrong)?,
                None => 0,
            };
            Ok(SocketAddrV6::new(ip, *port, 0, scope).into())
        }
    }
}

pub(crate) fn from_address(address: SocketAddr) -> Address {
    let host = match address {
        SocketAddr::V6(v6) if v6.scope_id() != 0 => {
            let zone = interface_name(v6.scope_id()).unwrap_or_else(|| v6.scope_id().to_string());
            format!("{}%{zone}", v6.ip())
        }
        other => other.ip().to_string(),
    };
    (host, address.port())
}

pub(crate) fn pin((interface, source): (u32, String)) -> PyResult<Pin> {
    let source = address(&(source, 0))?.ip();
    Ok(Pin { interface, source })
}

pub(crate) fn seconds(value: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(value).map_err(|_| PyValueError::new_err(format!("{value} is no number of seconds")))
}

pub(crate) fn news(queue: VecDeque<News>) -> Vec<(u64, u8, u64)> {
    queue.into_iter().map(|news| (news.connection, news.kind as u8, news.value)).collect()
}
