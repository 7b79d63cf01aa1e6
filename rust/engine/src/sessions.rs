//! What is remembered of servers, so that the next connection costs less: TLS session tickets (RFC 8446 §4.6.1), with
//! what was known of their servers, and tokens that prove our address (NEW_TOKEN, RFC 9000 §8.1.3).
//!
//! A ticket carries the trust of the handshake that it came from: who resumes does not look at a certificate again. So
//! tickets are kept apart by everything that the trust hung on, and never serve a caller who trusts others, shows
//! another certificate, or offers other protocols.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use bytes::Bytes;
use quinn_proto::TokenStore;
use rustls::{
    NamedGroup,
    client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue},
    pki_types::ServerName,
};

use crate::config::ConfigError;

/// Servers of which something is remembered; the one that was asked for longest ago is forgotten first.
const SERVERS: usize = 256;
/// A ticket is used once (RFC 8446 §C.4), and servers give two or so for each connection.
const TICKETS: usize = 8;
const TOKENS: usize = 4;

/// What a handshake settled. It is kept with each ticket, since a resumed session shows it before its own handshake does.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settled {
    pub alpn: Option<Vec<u8>>,
    /// DER; the peer's own first.
    pub certificates: Vec<Vec<u8>>,
}

/// A memory that connections share.
#[derive(Default)]
pub struct SessionStore {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    servers: HashMap<Key, Entry>,
    trusts: Vec<Weak<Trust>>,
    uses: u64,
    next_trust: u64,
}

#[derive(PartialEq, Eq, Hash)]
struct Key {
    trust: u64,
    server: String,
    alpn: Vec<Vec<u8>>,
}

struct Entry {
    used: u64,
    server: Arc<Server>,
}

/// Whom a caller trusts and as whom: PEM as it was given, and what TLS made of it. Resumption holds only among
/// configurations that share its parts, by identity.
pub(crate) struct Trust {
    number: u64,
    ca: Option<Vec<u8>>,
    identity: Option<(Vec<u8>, Vec<u8>)>,
    pub tls: rustls::ClientConfig,
}

/// What is remembered of one server, for one way of trusting it.
#[derive(Debug)]
pub(crate) struct Server {
    // Keeps alive what its tickets are bound to.
    trust: Arc<Trust>,
    memory: Mutex<Memory>,
}

#[derive(Default)]
struct Memory {
    tickets: VecDeque<(Tls13ClientSessionValue, Settled)>,
    tokens: VecDeque<Bytes>,
    group: Option<NamedGroup>,
}

impl SessionStore {
    /// The part for one server. `make` builds the TLS configuration where this trust is new.
    pub(crate) fn server(
        &self,
        server: &str,
        alpn: &[Vec<u8>],
        ca: Option<&[u8]>,
        identity: Option<(&[u8], &[u8])>,
        make: impl FnOnce() -> Result<rustls::ClientConfig, ConfigError>,
    ) -> Result<Arc<Server>, ConfigError> {
        let mut state = lock(&self.state);
        let trust = state.trust(ca, identity, make)?;
        state.uses += 1;
        let used = state.uses;
        let key = Key { trust: trust.number, server: server.into(), alpn: alpn.to_vec() };
        if let Some(entry) = state.servers.get_mut(&key) {
            entry.used = used;
            return Ok(entry.server.clone());
        }
        if state.servers.len() >= SERVERS {
            state.forget_oldest();
        }
        let server = Arc::new(Server { trust, memory: Mutex::default() });
        state.servers.insert(key, Entry { used, server: server.clone() });
        Ok(server)
    }

    /// Of how many servers something is remembered.
    pub fn len(&self) -> usize {
        lock(&self.state).servers.values().filter(|entry| !lock(&entry.server.memory).is_empty()).count()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets everything.
    pub fn clear(&self) {
        for (_, entry) in lock(&self.state).servers.drain() {
            // Connections that stand hold it as well, and would hand out what it had.
            *lock(&entry.server.memory) = Memory::default();
        }
    }
}

impl State {
    fn trust(
        &mut self,
        ca: Option<&[u8]>,
        identity: Option<(&[u8], &[u8])>,
        make: impl FnOnce() -> Result<rustls::ClientConfig, ConfigError>,
    ) -> Result<Arc<Trust>, ConfigError> {
        self.trusts.retain(|trust| trust.strong_count() > 0);
        let known = self.trusts.iter().filter_map(Weak::upgrade).find(|trust| trust.is_for(ca, identity));
        if let Some(trust) = known {
            return Ok(trust);
        }
        self.next_trust += 1;
        let trust = Arc::new(Trust {
            number: self.next_trust,
            ca: ca.map(Into::into),
            identity: identity.map(|(chain, key)| (chain.into(), key.into())),
            tls: make()?,
        });
        self.trusts.push(Arc::downgrade(&trust));
        Ok(trust)
    }

    fn forget_oldest(&mut self) {
        let oldest = self.servers.values().map(|entry| entry.used).min();
        self.servers.retain(|_, entry| Some(entry.used) != oldest);
    }
}

impl Trust {
    fn is_for(&self, ca: Option<&[u8]>, identity: Option<(&[u8], &[u8])>) -> bool {
        let ours = self.identity.as_ref().map(|(chain, key)| (&chain[..], &key[..]));
        self.ca.as_deref() == ca && ours == identity
    }
}

impl Server {
    pub fn tls(&self) -> rustls::ClientConfig {
        self.trust.tls.clone()
    }
}

impl Memory {
    fn is_empty(&self) -> bool {
        self.tickets.is_empty() && self.tokens.is_empty()
    }
}

impl TokenStore for Server {
    fn insert(&self, _server_name: &str, token: Bytes) {
        push(&mut lock(&self.memory).tokens, token, TOKENS);
    }

    fn take(&self, _server_name: &str) -> Option<Bytes> {
        lock(&self.memory).tokens.pop_back()
    }
}

/// One connection's access: what it settles goes with the tickets that it gets, and what was settled with the ticket that
/// it uses comes back.
#[derive(Debug)]
pub(crate) struct Visit {
    server: Arc<Server>,
    settled: Mutex<Settled>,
}

impl Visit {
    pub fn new(server: Arc<Server>) -> Self {
        Self { server, settled: Mutex::default() }
    }

    pub fn settle(&self, settled: Settled) {
        *lock(&self.settled) = settled;
    }

    pub fn settled(&self) -> Settled {
        lock(&self.settled).clone()
    }
}

impl ClientSessionStore for Visit {
    fn set_kx_hint(&self, _server_name: ServerName<'static>, group: NamedGroup) {
        lock(&self.server.memory).group = Some(group);
    }

    fn kx_hint(&self, _server_name: &ServerName<'_>) -> Option<NamedGroup> {
        lock(&self.server.memory).group
    }

    fn set_tls12_session(&self, _server_name: ServerName<'static>, _value: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _server_name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None // QUIC has TLS 1.3 and later only (RFC 9001 §4.2).
    }

    fn remove_tls12_session(&self, _server_name: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _server_name: ServerName<'static>, value: Tls13ClientSessionValue) {
        push(&mut lock(&self.server.memory).tickets, (value, self.settled()), TICKETS);
    }

    fn take_tls13_ticket(&self, _server_name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        let (ticket, settled) = lock(&self.server.memory).tickets.pop_back()?;
        self.settle(settled);
        Some(ticket)
    }
}

fn push<T>(queue: &mut VecDeque<T>, value: T, most: usize) {
    if queue.len() >= most {
        queue.pop_front();
    }
    queue.push_back(value);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// Secrets stay out of what is printed.

impl fmt::Debug for SessionStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionStore").finish_non_exhaustive()
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust").field("number", &self.number).finish_non_exhaustive()
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").finish_non_exhaustive()
    }
}
