//! What the processes that serve one port have in common: all of it follows from one secret.

use std::{fmt, sync::Arc, time::SystemTime};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey},
    hkdf::{HKDF_SHA256, KeyType, Prk, Salt},
};
use rustls::server::ProducesTickets;

use crate::steering::Steering;

/// One of several processes on one port.
#[derive(Clone, Debug)]
pub struct Worker {
    secret: Prk,
    pub(crate) steering: Steering,
    pub(crate) slot: u32,
}

impl Worker {
    /// `secret`: known to all of them and nobody else; `slot`: this one's, of so many `slots`.
    pub fn new(secret: &[u8], slots: u32, slot: u32) -> Self {
        let secret = self::secret(secret);
        Self { steering: Steering::new(&secret, slots), secret, slot }
    }

    /// How datagrams find the slot that they are for.
    pub fn steering(&self) -> Steering {
        self.steering
    }

    /// What stateless reset tokens are made of: who takes a dead worker's place can tell its clients (RFC 9000 §10.3).
    pub(crate) fn reset_key(&self) -> [u8; 32] {
        expand(&self.secret, b"stateless reset")
    }

    /// What address validation tokens are sealed with: a newcomer with one may reach any worker (§8.1).
    pub(crate) fn token_key(&self) -> Prk {
        secret(&expand::<32>(&self.secret, b"address validation"))
    }

    /// Session tickets that every worker can read. `trust`: whose certificates clients are asked for; a session goes on
    /// without another look at the client's, so a ticket is worth nothing where others are trusted.
    pub(crate) fn tickets(&self, trust: Option<&[u8]>) -> Arc<dyn ProducesTickets> {
        let key: [u8; 32] = expand(&self.secret, b"session tickets");
        Arc::new(Tickets(Salt::new(HKDF_SHA256, &key).extract(trust.unwrap_or_default())))
    }
}

pub(crate) fn secret(secret: &[u8]) -> Prk {
    Salt::new(HKDF_SHA256, b"whimbrel workers").extract(secret)
}

/// Bytes that follow from a secret and a purpose.
pub(crate) fn expand<const LENGTH: usize>(secret: &Prk, purpose: &[u8]) -> [u8; LENGTH] {
    struct Length(usize);
    impl KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }
    let mut bytes = [0; LENGTH];
    let purpose = [purpose];
    let filled = secret.expand(&purpose, Length(LENGTH)).and_then(|okm| okm.fill(&mut bytes));
    // HKDF gives up to 255 times the length of its hash.
    filled.expect("some dozens of bytes can be had");
    bytes
}

/// Session tickets sealed with keys that all workers derive, a new one every `TERM`.
struct Tickets(Prk);

/// Seconds that tickets are made with one key, and then still taken: a ticket is good for at least as long, and at most
/// twice.
const TERM: u64 = 6 * 60 * 60;

const NONCE: usize = 12;

impl Tickets {
    fn key(&self, term: u64) -> Option<RandomizedNonceKey> {
        let key: [u8; 32] = expand(&self.0, &term.to_be_bytes());
        RandomizedNonceKey::new(&AES_256_GCM, &key).ok()
    }

    fn open(&self, term: u64, ticket: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = ticket.split_first_chunk::<NONCE>()?;
        let mut sealed = sealed.to_vec();
        let plain = self.key(term)?.open_in_place(Nonce::from(nonce), Aad::empty(), &mut sealed).ok()?;
        Some(plain.to_vec())
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        2 * TERM as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let mut sealed = plain.to_vec();
        let nonce = self.key(term())?.seal_in_place_append_tag(Aad::empty(), &mut sealed).ok()?;
        Some([&nonce.as_ref()[..], &sealed].concat())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let now = term();
        self.open(now, ticket).or_else(|| self.open(now.checked_sub(1)?, ticket))
    }
}

#[expect(clippy::disallowed_methods, reason = "what processes have in common is the time of day, as TLS reads it too")]
fn term() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs()) / TERM
}

// Secrets stay out of what is printed.
impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tickets").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_of_one_worker_is_read_by_another() {
        let workers = [Worker::new(b"secret", 2, 0), Worker::new(b"secret", 2, 1)];
        let [here, there] = workers.map(|worker| worker.tickets(None));
        let ticket = here.encrypt(b"a session").unwrap();
        assert_eq!(there.decrypt(&ticket).unwrap(), b"a session");
        assert_ne!(here.encrypt(b"a session").unwrap(), ticket);
    }

    #[test]
    fn a_ticket_is_worth_nothing_to_others_or_changed() {
        let worker = Worker::new(b"secret", 2, 0);
        let mut ticket = worker.tickets(None).encrypt(b"a session").unwrap();
        assert_eq!(worker.tickets(Some(b"another authority")).decrypt(&ticket), None);
        assert_eq!(Worker::new(b"another", 2, 0).tickets(None).decrypt(&ticket), None);
        *ticket.last_mut().unwrap() ^= 1;
        assert_eq!(worker.tickets(None).decrypt(&ticket), None);
        assert_eq!(worker.tickets(None).decrypt(b"short"), None);
    }

    #[test]
    fn a_ticket_outlives_its_term_by_one() {
        let Tickets(key) = Tickets(secret(b"x"));
        let tickets = Tickets(key);
        let seal = |term: u64| {
            let mut sealed = b"a session".to_vec();
            let nonce = tickets.key(term).unwrap().seal_in_place_append_tag(Aad::empty(), &mut sealed).unwrap();
            [&nonce.as_ref()[..], &sealed].concat()
        };
        assert!(tickets.decrypt(&seal(term() - 1)).is_some());
        assert!(tickets.decrypt(&seal(term() - 2)).is_none());
    }
}
