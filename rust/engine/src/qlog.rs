//! One connection's events in a file: qlog as JSON text sequences (RFC 7464), for qvis and its like.
//!
//! The engine writes what packets came and went and what loss detection made of them; no payload, no token and no key is
//! among it. On the way to the file each record is put right where the engine's differ from the schema, and what only
//! we know is added: which side this is, the size of what came, and the paths.
//!
//! The engine has one path and does not name it. So its records are held while it takes in a datagram or makes some, and
//! go on with the name of the path that these had: a packet's is that of its datagram, and what is said of congestion is
//! of the path in use. Names, addresses and migrations are told as draft-ietf-quic-qlog-quic-events-07 does, the first to
//! have them (`path`, `path_assigned`, `migration_state_updated`); all else is qlog 0.3, which is what its readers read.

mod paths;

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    mem,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use quinn_proto::{ConnectionId, QlogConfig, QlogStream, Side};
use serde_json::{Map, Value, json};

pub(crate) use self::paths::Ends;
use self::paths::{PathId, Paths};

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
    /// Records that wait for the name of their path.
    held: Option<Vec<Value>>,
    paths: Paths,
    /// A move that is not proven yet.
    migrating: bool,
    /// The connection IDs in use, ours and the peer's.
    ids: [Vec<u8>; 2],
    /// For how long the engine's clock has stood still, milliseconds.
    stood_still: f64,
    /// What the engine said of congestion last, and of which path.
    metrics: (Map<String, Value>, PathId),
    /// A path's RTT before any is measured, seconds.
    initial_rtt: f64,
    /// Nobody will say when the last record has come.
    ended: bool,
}

/// A datagram that the engine has taken in.
pub(crate) struct Came<'a> {
    pub length: usize,
    pub source: SocketAddr,
    pub local: Option<IpAddr>,
    /// Of a client: over the path in use.
    pub active: bool,
    /// The connection ID that it was sent to, where its header is short.
    pub addressed: Option<&'a [u8]>,
}

/// Whose connection ID it is.
#[derive(Clone, Copy, Debug)]
enum Owner {
    Local,
    Remote,
}

/// Where files go: into a folder, or to be one file.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    path: PathBuf,
    /// As it was when the caller named it: a file that takes the folder's place later is somebody else's.
    is_folder: bool,
    /// A dial may try several addresses; the first has the file that was named.
    taken: Arc<AtomicBool>,
    /// What the engine takes for a path's RTT before it has measured any.
    initial_rtt: Duration,
}

impl Place {
    pub fn new(path: &str, initial_rtt: Duration) -> Self {
        let path = PathBuf::from(path);
        Self { is_folder: path.is_dir(), path, taken: Arc::default(), initial_rtt }
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
        let sink = Sink {
            file,
            group,
            side,
            record: Vec::new(),
            held: None,
            paths: Paths::default(),
            migrating: false,
            ids: Default::default(),
            stood_still: 0.0,
            metrics: Default::default(),
            initial_rtt: self.initial_rtt.as_secs_f64(),
            ended: false,
        };
        let log = Log { sink: Arc::new(Mutex::new(sink)), started: now };
        let mut config = QlogConfig::default();
        config.writer(Box::new(Records(log.clone()))).start_time(now);
        Ok((log, config.into_stream()))
    }
}

impl Log {
    /// What is known of the path that the connection has begun on, or that it now has without a move of ours: where the
    /// kernel chooses, it may choose another.
    pub fn found_at(&self, ends: Ends, now: Instant) {
        let mut sink = self.lock();
        let time = self.time(now);
        let active = sink.paths.active();
        match sink.paths.ends(active) {
            Some(known) if known == ends => {}
            Some(known) if is_named(known) => drop(sink.change_to(ends, time)),
            Some(_) => {
                sink.paths.refine(ends);
                sink.assign(active, ends, time);
            }
            None => drop(sink.change_to(ends, time)),
        }
    }

    /// The same, where only the address of ours is known.
    pub fn leaves_from(&self, ip: IpAddr, now: Instant) {
        let ends = {
            let sink = self.lock();
            sink.paths.ends(sink.paths.active())
        };
        if let Some(Ends { local: Some(local), remote }) = ends {
            self.found_at(Ends { local: Some(SocketAddr::new(ip, local.port())), remote }, now);
        }
    }

    /// The connection moves, by our decision or its peer's (RFC 9000 §9).
    pub fn moved_to(&self, ends: Ends, now: Instant) {
        let mut sink = self.lock();
        let time = self.time(now);
        sink.settle("migration_abandoned", time);
        sink.migrate_to(ends, time);
    }

    /// The new path works: the peer has answered over it, or has proven to be there.
    pub fn proven(&self, now: Instant) {
        self.lock().settle("migration_complete", self.time(now));
    }

    /// The peer was not where it seemed to be; the path to this address is in use again (§9.3.2).
    pub fn returned(&self, remote: SocketAddr, now: Instant) {
        let mut sink = self.lock();
        let time = self.time(now);
        sink.settle("migration_abandoned", time);
        if let Some(id) = sink.paths.to(remote) {
            sink.paths.activate(id);
        }
    }

    /// Another path, from this address of ours, is being probed (§9.1).
    pub fn probing(&self, state: &str, local: IpAddr, now: Instant) {
        let mut sink = self.lock();
        let remote = sink.paths.ends(sink.paths.active()).map(|ends| end(ends.remote));
        let data = json!({"new": state, "path_local": end(SocketAddr::new(local, 0)), "path_remote": remote});
        sink.write(event(self.time(now), "transport:migration_state_updated", data));
    }

    /// The engine takes in, or makes, datagrams: what it says waits for the name of their path.
    pub fn hold(&self) {
        self.lock().held.get_or_insert_default();
    }

    /// It has taken in this one, and sends to `remote` now.
    pub fn received(&self, came: &Came<'_>, remote: SocketAddr, now: Instant) {
        let sink = &mut *self.lock();
        let Some(held) = sink.held.take() else { return };
        let time = self.time(now);
        let packets = held.iter().filter(|record| is(record, "packet_received")).count();
        let mut path = sink.path_of(came);
        if path.is_none() && packets > 0 && sink.side.is_server() {
            // What is authentic and comes from elsewhere comes over a new path; all else may be anybody's.
            path = Some(sink.name(Ends { local: sink.local(), remote: came.source }, time));
        }
        for mut record in held {
            if packets == 1 && is(&record, "packet_received") {
                record["data"]["raw"] = json!({"length": came.length});
            }
            if sink.side.is_server() && is(&record, "metrics_updated") {
                sink.follow(remote, time);
            }
            sink.put(record, path.unwrap_or(sink.paths.active()));
        }
        if sink.side.is_server() {
            sink.follow(remote, time);
        }
        // What comes late has an older one.
        if let Some(id) = came.addressed.filter(|_| packets > 0 && path == Some(sink.paths.active())) {
            sink.addressed(Owner::Local, id, time);
        }
    }

    /// It has made some for this destination, to this connection ID of the peer's.
    pub fn sent(&self, destination: Option<SocketAddr>, addressed: Option<&[u8]>, now: Instant) {
        let mut sink = self.lock();
        let Some(held) = sink.held.take() else { return };
        if let Some(id) = addressed {
            sink.addressed(Owner::Remote, id, self.time(now));
        }
        let path = destination.and_then(|remote| sink.paths.to(remote)).unwrap_or(sink.paths.active());
        for record in held {
            sink.put(record, path);
        }
    }

    /// The engine's clock stood still for so long, the world's did not.
    pub fn stood_still(&self, duration: Duration) {
        self.lock().stood_still += duration.as_secs_f64() * 1000.0;
    }

    /// Milliseconds on the engine's clock.
    fn time(&self, now: Instant) -> f64 {
        now.saturating_duration_since(self.started).as_secs_f64() * 1000.0
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

    /// Takes in a record that belongs to the path in use, unless it is to be found out to which.
    fn write(&mut self, record: Value) {
        match &mut self.held {
            Some(held) if record.get("trace").is_none() => held.push(record),
            _ => self.put(record, self.paths.active()),
        }
    }

    /// `path`: of the datagram that a packet came or went in.
    fn put(&mut self, mut record: Value, path: PathId) {
        let header = |field| record["data"]["header"][field].clone();
        let number = (header("packet_type") == "1RTT").then(|| header("packet_number").as_u64()).flatten();
        let mut of_record = self.paths.active();
        if is(&record, "packet_sent") {
            of_record = path;
            number.into_iter().for_each(|number| self.paths.sent(number, path));
        } else if is(&record, "packet_received") {
            of_record = path;
        } else if is(&record, "packet_lost") {
            of_record = number.map_or(PathId::default(), |number| self.paths.of_sent(number));
        } else if is(&record, "metrics_updated")
            && let Value::Object(changed) = &mut record["data"]
        {
            let (all, told) = &mut self.metrics;
            all.append(&mut changed.clone());
            // The engine tells what has changed. Of a path that nothing was told of yet, that is all.
            if mem::replace(told, of_record) != of_record {
                changed.clone_from(all);
            }
        }
        self.emit(record, of_record);
    }

    fn emit(&mut self, mut record: Value, path: PathId) {
        if let Some(fields) = record.as_object_mut() {
            self.put_right(fields, path);
        }
        let _ = writeln!(self.file, "{}{record}", char::from(RECORD));
        if self.ended {
            let _ = self.file.flush();
        }
    }

    /// Of a server: the path that an authentic datagram came by; of a client, any. `None`: from where nobody was.
    fn path_of(&self, came: &Came<'_>) -> Option<PathId> {
        match self.side {
            Side::Server => self.paths.to(came.source),
            Side::Client if came.active => Some(self.paths.active()),
            Side::Client => Some(self.paths.left(came.local)),
        }
    }

    fn local(&self) -> Option<SocketAddr> {
        self.paths.ends(self.paths.active()).and_then(|ends| ends.local)
    }

    /// Of a server: the engine has followed its client to `remote`.
    fn follow(&mut self, remote: SocketAddr, time: f64) {
        if self.paths.ends(self.paths.active()).is_some_and(|ends| ends.remote != remote) {
            self.settle("migration_abandoned", time);
            self.migrate_to(Ends { local: self.local(), remote }, time);
        }
    }

    /// Packets carry this connection ID from now on.
    fn addressed(&mut self, owner: Owner, id: &[u8], time: f64) {
        let known = &mut self.ids[owner as usize];
        if known == id {
            return;
        }
        let old = mem::replace(known, id.to_vec());
        let mut data = json!({"owner": if matches!(owner, Owner::Local) { "local" } else { "remote" }, "new": hex(id)});
        if !old.is_empty() {
            data["old"] = hex(&old).into();
        }
        self.put(event(time, "connectivity:connection_id_updated", data), self.paths.active());
    }

    fn migrate_to(&mut self, ends: Ends, time: f64) {
        let id = self.change_to(ends, time);
        self.migrating = true;
        self.migration("migration_started", id, time);
    }

    /// The move under way ends so, if there is one.
    fn settle(&mut self, state: &str, time: f64) {
        if mem::take(&mut self.migrating) {
            self.migration(state, self.paths.active(), time);
        }
    }

    fn migration(&mut self, state: &str, id: PathId, time: f64) {
        let mut data = self.paths.ends(id).map_or_else(|| json!({}), |ends| described(id, ends));
        data["new"] = state.into();
        self.emit(event(time, "transport:migration_state_updated", data), id);
    }

    fn change_to(&mut self, ends: Ends, time: f64) -> PathId {
        let id = self.name(ends, time);
        self.paths.activate(id);
        id
    }

    fn name(&mut self, ends: Ends, time: f64) -> PathId {
        let (id, is_new) = self.paths.with(ends);
        if is_new {
            self.assign(id, ends, time);
        }
        id
    }

    fn assign(&mut self, id: PathId, ends: Ends, time: f64) {
        self.emit(event(time, "connectivity:path_assigned", described(id, ends)), id);
    }

    fn put_right(&self, record: &mut Map<String, Value>, path: PathId) {
        if let Some(trace) = record.get_mut("trace") {
            trace["vantage_point"] = json!({"type": name(self.side)});
            trace["common_fields"] = json!({"ODCID": self.group, "time_format": "relative", "reference_time": 0});
            return;
        }
        // The engine's changes when the peer chooses its connection ID.
        record.insert("group_id".into(), self.group.clone().into());
        record.insert("path".into(), path.name().into());
        if let Some(time) = record.get("time").and_then(Value::as_f64) {
            // To the microsecond: further on, the engine's rounding is not ours.
            record.insert("time".into(), (((time + self.stood_still) * 1000.0).round() / 1000.0).into());
        }
        if let Some(Value::Object(data)) = record.get_mut("data") {
            const RTT: [&str; 4] = ["min_rtt", "smoothed_rtt", "latest_rtt", "rtt_variance"];
            // Of a new path they are guesses, which are nobody's measurements.
            let is_guess = |field: &&str| {
                data.get(*field).and_then(Value::as_f64).is_some_and(|rtt| (rtt - self.initial_rtt).abs() < 1e-6)
            };
            if RTT[..3].iter().all(is_guess) {
                RTT.iter().for_each(|field| drop(data.remove(*field)));
            }
            // In seconds where the schema has milliseconds; and a threshold that is not set has no number.
            for field in RTT {
                if let Some(seconds) = data.get(field).and_then(Value::as_f64) {
                    data.insert(field.into(), (seconds * 1000.0).into());
                }
            }
            if data.get("ssthresh").and_then(Value::as_u64) == Some(u64::MAX) {
                data.remove("ssthresh");
            }
            // It is that of the whole packet, not what a long header says.
            if let Some(length) = data.get_mut("header").and_then(|header| header.as_object_mut()?.remove("length")) {
                data.insert("raw".into(), json!({"length": length}));
            }
        }
    }
}

/// What the engine said of a connection that came to nothing is not lost.
impl Drop for Sink {
    fn drop(&mut self) {
        for record in self.held.take().into_iter().flatten() {
            self.put(record, self.paths.active());
        }
    }
}

fn event(time: f64, name: &str, data: Value) -> Value {
    json!({"time": time, "name": name, "data": data})
}

fn is(record: &Value, name: &str) -> bool {
    record["name"].as_str().and_then(|full| full.split_once(':')).is_some_and(|(_, own)| own == name)
}

fn described(id: PathId, ends: Ends) -> Value {
    let mut data = json!({"path_id": id.name(), "path_remote": end(ends.remote)});
    if let Some(local) = ends.local {
        data["path_local"] = end(local);
    }
    data
}

/// Half of a path; what is not known is left out.
fn end(address: SocketAddr) -> Value {
    let (ip, port) = (address.ip().to_canonical(), address.port());
    let (ip_field, port_field) = if ip.is_ipv4() { ("ip_v4", "port_v4") } else { ("ip_v6", "port_v6") };
    let mut data = json!({});
    if !ip.is_unspecified() {
        data[ip_field] = ip.to_string().into();
    }
    if port != 0 {
        data[port_field] = port.into();
    }
    data
}

/// Whether our address is known too.
fn is_named(ends: Ends) -> bool {
    ends.local.is_some_and(|local| !local.ip().is_unspecified())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
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
