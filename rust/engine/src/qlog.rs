//! One connection's events in a file: qlog as JSON text sequences (RFC 7464), for qvis and its like.
//!
//! The engine writes what packets went where and what loss detection made of them; no payload, no token and no key is
//! among it. On the way to the file each record is put right where the engine's differ from the schema, and what only
//! we know is added: which side this is, and moves from path to path.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use quinn_proto::{ConnectionId, QlogConfig, QlogStream, Side};
use serde_json::{Map, Value, json};

const RECORD: u8 = 0x1e;

/// The file of one connection.
#[derive(Clone)]
pub(crate) struct Log {
    sink: Arc<Mutex<Sink>>,
    started: Instant,
}

struct Sink {
    file: BufWriter<File>,
    /// The original destination connection ID: by it logs of both ends are matched.
    group: String,
    side: Side,
    /// A record on its way from the engine, which comes in pieces.
    record: Vec<u8>,
    paths: u64,
    /// Nobody will say when the last record has come.
    ended: bool,
}

/// Where files go: into a folder, or to be one file.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    path: PathBuf,
    /// As it was when the caller named it: a file that takes the folder's place later is somebody else's.
    is_folder: bool,
    /// A dial may try several addresses; the first has the file that was named.
    taken: Arc<AtomicBool>,
}

impl Place {
    pub fn new(path: &str) -> Self {
        let path = PathBuf::from(path);
        Self { is_folder: path.is_dir(), path, taken: Arc::default() }
    }

    /// Begins the file of a connection; `id` is the client's first destination connection ID.
    pub fn begin(&self, side: Side, id: &ConnectionId, now: Instant) -> io::Result<(Log, Option<QlogStream>)> {
        let group = id.to_string();
        let path = if self.is_folder {
            self.path.join(format!("{group}_{}.sqlog", name(side)))
        } else if self.taken.swap(true, Ordering::Relaxed) {
            self.path.with_extension(format!("{group}.sqlog"))
        } else {
            self.path.clone()
        };
        let file = BufWriter::with_capacity(1 << 16, File::create(path)?);
        let sink = Sink { file, group, side, record: Vec::new(), paths: 0, ended: false };
        let log = Log { sink: Arc::new(Mutex::new(sink)), started: now };
        let mut config = QlogConfig::default();
        config.writer(Box::new(Records(log.clone()))).start_time(now);
        Ok((log, config.into_stream()))
    }
}

impl Log {
    /// The connection uses another path from now on. The engine has no event for it.
    pub fn path_assigned(&self, remote: SocketAddr, now: Instant) {
        let mut sink = self.lock();
        sink.paths += 1;
        let (ip, port) = if remote.is_ipv4() { ("ip_v4", "port_v4") } else { ("ip_v6", "port_v6") };
        let time = now.saturating_duration_since(self.started).as_secs_f64() * 1000.0;
        let data = json!({
            "path_id": sink.paths.to_string(),
            "path_remote": { ip: remote.ip().to_string(), port: remote.port() },
        });
        let event = json!({"time": time, "name": "connectivity:path_assigned", "data": data});
        sink.write(event);
    }

    /// The connection has ended: what there is goes to the file now, and what may still come at once.
    pub fn end(&self) {
        let mut sink = self.lock();
        sink.ended = true;
        // A full disk costs the log, never the connection.
        let _ = sink.file.flush();
    }

    fn lock(&self) -> MutexGuard<'_, Sink> {
        self.sink.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink {
    fn take_in(&mut self, data: &[u8]) {
        for part in data.split_inclusive(|&byte| byte == b'\n') {
            self.record.extend_from_slice(part);
            if part.ends_with(b"\n") {
                let record = std::mem::take(&mut self.record);
                let text = record.strip_prefix(&[RECORD]).unwrap_or(&record);
                if let Ok(value) = serde_json::from_slice(text) {
                    self.write(value);
                }
            }
        }
    }

    fn write(&mut self, mut record: Value) {
        if let Some(fields) = record.as_object_mut() {
            self.put_right(fields);
        }
        let _ = writeln!(self.file, "{}{record}", char::from(RECORD));
        if self.ended {
            let _ = self.file.flush();
        }
    }

    fn put_right(&self, record: &mut Map<String, Value>) {
        if let Some(trace) = record.get_mut("trace") {
            trace["vantage_point"] = json!({"type": name(self.side)});
            trace["common_fields"] = json!({"ODCID": self.group, "time_format": "relative"});
            return;
        }
        // The engine's changes when the peer chooses its connection ID.
        record.insert("group_id".into(), self.group.clone().into());
        if let Some(Value::Object(data)) = record.get_mut("data") {
            // In seconds where the schema has milliseconds; and a threshold that is not set has no number.
            for field in ["min_rtt", "smoothed_rtt", "latest_rtt", "rtt_variance"] {
                if let Some(seconds) = data.get(field).and_then(Value::as_f64) {
                    data.insert(field.into(), (seconds * 1000.0).into());
                }
            }
            if data.get("ssthresh").and_then(Value::as_u64) == Some(u64::MAX) {
                data.remove("ssthresh");
            }
        }
    }
}

/// What the engine writes to.
struct Records(Log);

impl Write for Records {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.lock().take_in(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.lock().file.flush()
    }
}

fn name(side: Side) -> &'static str {
    match side {
        Side::Client => "client",
        Side::Server => "server",
    }
}
