//! Pins against the real routing table: a network namespace with two interfaces that both lead everywhere.
//!
//! ```text
//!   wlan0  192.0.2.1     2001:db8:1::1   default, preferred
//!   wwan0  198.51.100.1  2001:db8:2::1   default
//! ```

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use whimbrel_udp::{Outgoing, Pin, Socket, interface_index};

const INTERFACES: [(&str, &str, &str); 2] =
    [("wlan0", "192.0.2.1", "2001:db8:1::1"), ("wwan0", "198.51.100.1", "2001:db8:2::1")];
const DESTINATIONS: [(&str, &str); 2] = [("0.0.0.0:0", "203.0.113.9:443"), ("[::]:0", "[2001:db8:9::9]:443")];
/// Set in the namespace, so that nothing rearranges the network of the machine by mistake.
const INSIDE: &str = "WHIMBREL_TEST_NAMESPACE";

#[test]
fn pins_hold_in_a_namespace() {
    let isolate = ["--user", "--map-root-user", "--net", "--"];
    let prepared = ["ip", "link", "add", "type", "veth"];
    if !Command::new("unshare").args(isolate).args(prepared).status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: no network namespaces here, or no veth");
        return;
    }
    let this = std::env::current_exe().unwrap();
    let mut inside = Command::new("unshare");
    inside.args(isolate).arg(this).args(["--ignored", "--test-threads=1"]).env(INSIDE, "1");
    assert!(inside.status().unwrap().success());
}

#[test]
#[ignore = "the test above runs it, in a namespace"]
fn a_pin_decides_the_interface_until_that_is_gone() {
    if std::env::var_os(INSIDE).is_none() {
        return;
    }
    for (metric, (name, v4, v6)) in INTERFACES.into_iter().enumerate() {
        // Without ARP nobody need answer at the other end.
        ip(&format!("link add {name} arp off type veth peer name {name}-end"));
        ip(&format!("link set {name}-end up"));
        ip(&format!("address add {v4}/24 dev {name}"));
        ip(&format!("address add {v6}/64 dev {name} nodad"));
        ip(&format!("link set {name} up"));
        ip(&format!("-4 route add default dev {name} metric {}", metric + 100));
        ip(&format!("-6 route add default dev {name} metric {}", metric + 100));
    }
    for (bind, destination) in DESTINATIONS {
        let socket = Socket::unconnected(bind.parse().unwrap()).unwrap();
        let destination: SocketAddr = destination.parse().unwrap();
        let plain = Outgoing { contents: &[0; 3600], destination, segment: Some(1200), pin: None, ecn: 2 };
        for (name, pin) in pins(destination.is_ipv6()) {
            let before = bytes_sent(name);
            socket.send(&Outgoing { pin: Some(pin), ..plain }).unwrap();
            assert!(bytes_sent(name) - before >= 3600, "{pin:?} was not kept");
        }
        for (name, pin) in pins(destination.is_ipv6()) {
            // Bound to the interface, as those of clients are, it obeys a pin that names the source as well.
            let bound = Socket::on_interface(bind.parse().unwrap(), pin.interface).unwrap();
            let before = bytes_sent(name);
            bound.send(&Outgoing { pin: Some(pin), ..plain }).unwrap();
            assert!(bytes_sent(name) - before >= 3600, "{pin:?} was not kept");
            let gone =
                Pin { source: if destination.is_ipv6() { "fd09::9" } else { "10.9.9.9" }.parse().unwrap(), ..pin };
            let error = bound.send(&Outgoing { pin: Some(gone), ..plain }).unwrap_err();
            assert!(matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENETUNREACH)), "{error}");
        }
        let before = bytes_sent("wlan0");
        socket.send(&plain).unwrap();
        assert!(bytes_sent("wlan0") - before >= 3600, "the kernel prefers wlan0");
    }
    ip("link set wlan0 down");
    for (bind, destination) in DESTINATIONS {
        let socket = Socket::unconnected(bind.parse().unwrap()).unwrap();
        let destination: SocketAddr = destination.parse().unwrap();
        let [(_, gone), (_, left)] = pins(destination.is_ipv6());
        let plain = Outgoing { contents: &[0; 3600], destination, segment: Some(1200), pin: None, ecn: 2 };
        let error = socket.send(&Outgoing { pin: Some(gone), ..plain }).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENETUNREACH));
        assert_eq!(socket.max_segments(), 64);
        socket.send(&Outgoing { pin: Some(left), ..plain }).unwrap();
        // What the interface does not take is the caller's to know: 1500 bytes, less the headers.
        for segment in [None, Some(1473)] {
            let error = socket.send(&Outgoing { pin: Some(left), segment, ..plain }).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
        }
        assert_eq!(socket.max_segments(), 64);
    }
}

fn pins(v6: bool) -> [(&'static str, Pin); 2] {
    INTERFACES.map(|(name, source_v4, source_v6)| {
        let source: IpAddr = if v6 { source_v6 } else { source_v4 }.parse().unwrap();
        (name, Pin { interface: interface_index(name).unwrap(), source })
    })
}

fn ip(arguments: &str) {
    assert!(Command::new("ip").args(arguments.split(' ')).status().unwrap().success(), "ip {arguments}");
}

/// From /proc, which knows the namespace of who reads it; /sys shows the one where it was mounted.
fn bytes_sent(interface: &str) -> u64 {
    let table = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let line = table.lines().find_map(|line| line.trim().strip_prefix(interface)?.strip_prefix(':'));
    line.unwrap().split_whitespace().nth(8).unwrap().parse().unwrap()
}
