//! What a server sends to an address that nobody has proven to be the client's: three times what came from there, and
//! no more (RFC 9000 §8.1, §9.3).
//!
//! The engine keeps such an account as well, and keeps it loosely: any rest of it pays for a whole datagram, searching
//! for a larger MTU costs nothing, what comes from another address counts too, and whoever asks by PATH_CHALLENGE is
//! answered with 1200 bytes. A client that lies about its address would find a good amplifier there.
//!
//! One thing must be granted. The engine sends no PATH_CHALLENGE below 1200 bytes, and many an honest client makes
//! itself known at a new address with an ACK of 30: it would never be asked. So the first datagram to a new address may
//! be advanced; but only a few of these, and then one a second, until an address is proven.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

use quinn_proto::ConnectionStats;

use crate::config::LARGEST_SEARCHED;

const FACTOR: u64 = 3;
/// Addresses that got a datagram in advance, and none of which was proven.
const ADVANCES: u32 = 8;
/// When one more is granted.
const RESPITE: Duration = Duration::from_secs(1);
/// Addresses besides the active one that are kept account of; as many as the engine answers at once.
const OTHERS: usize = 16;

/// The accounts of one connection.
#[derive(Debug, Default)]
pub(crate) struct Allowance {
    active: Option<Account>,
    /// The address before the active one that was proven last: the engine asks there whether the client is still there.
    previous: Option<SocketAddr>,
    others: VecDeque<Account>,
    advances: Advances,
}

#[derive(Clone, Copy, Debug)]
struct Account {
    address: SocketAddr,
    received: u64,
    sent: u64,
    /// PATH_RESPONSE frames that came when this was last settled: with one more it may have been proven.
    responses: u64,
    /// Whether anything was tried to be sent.
    opened: bool,
    /// In the handshake, whose packets prove an address without any PATH_CHALLENGE.
    handshake: bool,
}

#[derive(Debug, Default)]
struct Advances {
    taken: u32,
    last: Option<Instant>,
}

/// What is to become of datagrams that the engine made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Send,
    Withhold,
}

impl Allowance {
    /// The client seems to have moved: nobody knows yet whether it is there.
    pub fn moved(&mut self, from: SocketAddr, to: SocketAddr, responses: u64) {
        if self.active.is_none() {
            self.previous = Some(from);
        }
        self.active = Some(Account { responses, ..Account::new(to) });
    }

    /// A client knocks.
    pub fn knocked(&mut self, from: SocketAddr, length: usize) {
        let account = Account { received: length as u64, handshake: true, ..Account::new(from) };
        self.active = Some(account);
    }

    /// It is back at an address that was proven.
    pub fn returned(&mut self) {
        self.active = None;
    }

    /// Whether what comes has to be accounted for.
    pub fn is_open(&self) -> bool {
        self.active.is_some()
    }

    /// A Handshake packet came, or the handshake is complete: only the true client could do that (§8.1).
    pub fn shook_hands(&mut self) {
        self.active = self.active.filter(|account| !account.handshake);
    }

    /// A datagram came; `remote` is where the client is believed to be after it.
    pub fn received(&mut self, source: SocketAddr, remote: SocketAddr, length: usize) {
        let account = if source != remote {
            self.other(source)
        } else if let Some(account) = &mut self.active {
            account
        } else {
            return;
        };
        account.received = account.received.saturating_add(length as u64);
    }

    /// How many datagrams of this size the active address may be sent now, `max` at most.
    pub fn datagrams(
        &mut self,
        max: usize,
        size: usize,
        now: Instant,
        stats: impl FnOnce() -> ConnectionStats,
    ) -> usize {
        let Some(account) = &mut self.active else { return max };
        let first = !std::mem::replace(&mut account.opened, true);
        // With nothing else to say it searches for a larger MTU, and what it makes in vain is lost to it: a full path.
        let is_enough = account.handshake || account.left() >= LARGEST_SEARCHED.into();
        let left = (account.left() / size.max(1) as u64).min(max as u64) as usize;
        if account.handshake || (is_enough && left > 0) {
            return left;
        }
        // The engine alone knows whether an answer was the right one: the next packet that it makes shows it.
        let answered = stats().frame_rx.path_response > account.responses;
        usize::from(first || answered || (account.sent == 0 && self.advances.is_due(now)))
    }

    /// Judges what the engine made for an address that is not the active one: an answer to a PATH_CHALLENGE from there.
    pub fn judge_other(&mut self, destination: SocketAddr, size: usize) -> Verdict {
        if self.previous == Some(destination) { Verdict::Send } else { self.other(destination).spend(size) }
    }

    /// Judges what the engine made for the active address; with what it had counted before and after.
    pub fn judge(&mut self, size: usize, now: Instant, before: &ConnectionStats, after: &ConnectionStats) -> Verdict {
        let is_challenge = after.frame_tx.path_challenge > before.frame_tx.path_challenge;
        let Some(account) = &mut self.active else { return Verdict::Send };
        if account.handshake {
            return account.spend(size);
        }
        let is_search = after.path.sent_plpmtud_probes > before.path.sent_plpmtud_probes;
        let is_close = after.frame_tx.connection_close > before.frame_tx.connection_close;
        if !is_challenge && !is_search && !is_close {
            // The engine puts its challenge into every packet until it is met.
            self.active = None;
            self.advances = Advances::default();
            return Verdict::Send;
        }
        account.responses = after.frame_rx.path_response;
        if account.spend(size) == Verdict::Send {
            return Verdict::Send;
        }
        if account.sent == 0 && !is_search && self.advances.take(now) {
            account.sent = size as u64;
            return Verdict::Send;
        }
        Verdict::Withhold
    }

    fn other(&mut self, address: SocketAddr) -> &mut Account {
        let index = self.others.iter().position(|account| account.address == address).unwrap_or_else(|| {
            self.others.truncate(OTHERS - 1);
            self.others.push_front(Account::new(address));
            0
        });
        &mut self.others[index]
    }
}

impl Account {
    fn new(address: SocketAddr) -> Self {
        Self { address, received: 0, sent: 0, responses: 0, opened: false, handshake: false }
    }

    fn left(&self) -> u64 {
        self.received.saturating_mul(FACTOR).saturating_sub(self.sent)
    }

    fn spend(&mut self, size: usize) -> Verdict {
        if self.left() < size as u64 {
            return Verdict::Withhold;
        }
        self.sent += size as u64;
        Verdict::Send
    }
}

impl Advances {
    fn is_due(&self, now: Instant) -> bool {
        self.taken < ADVANCES || self.last.is_none_or(|last| now.saturating_duration_since(last) >= RESPITE)
    }

    fn take(&mut self, now: Instant) -> bool {
        let due = self.is_due(now);
        if due {
            self.taken = self.taken.saturating_add(1);
            self.last = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: SocketAddr = address(1);
    const VICTIM: SocketAddr = address(2);

    const fn address(port: u16) -> SocketAddr {
        SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), port)
    }

    fn counts(challenges: u64, responses: u64) -> ConnectionStats {
        let mut counts = ConnectionStats::default();
        counts.frame_tx.path_challenge = challenges;
        counts.frame_rx.path_response = responses;
        counts
    }

    #[expect(clippy::disallowed_methods, reason = "any moment will do")]
    fn now() -> Instant {
        Instant::now()
    }

    fn ask(allowance: &mut Allowance, now: Instant) -> Verdict {
        allowance.judge(1200, now, &counts(0, 0), &counts(1, 0))
    }

    #[test]
    fn a_handshake_gets_three_times_what_knocked() {
        let mut allowance = Allowance::default();
        allowance.knocked(CLIENT, 1250);
        assert_eq!(allowance.datagrams(10, 1200, now(), ConnectionStats::default), 3);
        assert_eq!(allowance.judge(3600, now(), &counts(0, 0), &counts(0, 0)), Verdict::Send);
        assert_eq!(allowance.datagrams(10, 1200, now(), ConnectionStats::default), 0);
        allowance.shook_hands();
        assert_eq!(allowance.datagrams(10, 1200, now(), ConnectionStats::default), 10);
    }

    #[test]
    fn a_new_address_is_asked_once_in_advance() {
        let mut allowance = Allowance::default();
        allowance.moved(CLIENT, VICTIM, 0);
        allowance.received(VICTIM, VICTIM, 30);
        assert_eq!(allowance.datagrams(10, 1200, now(), ConnectionStats::default), 1);
        assert_eq!(ask(&mut allowance, now()), Verdict::Send);
        assert_eq!(allowance.datagrams(10, 1200, now(), ConnectionStats::default), 0);
        allowance.received(VICTIM, VICTIM, 1200);
        assert_eq!(allowance.datagrams(10, 1200, now(), ConnectionStats::default), 2);
    }

    #[test]
    fn what_would_not_pay_for_a_search_pays_for_nothing() {
        let mut allowance = Allowance::default();
        allowance.moved(CLIENT, VICTIM, 0);
        assert_eq!(ask(&mut allowance, now()), Verdict::Send);
        allowance.received(VICTIM, VICTIM, (1200 + 1400) / 3 + 1);
        assert_eq!(allowance.datagrams(10, 1200, now(), ConnectionStats::default), 1, "the first");
        assert_eq!(allowance.datagrams(10, 1200, now(), ConnectionStats::default), 0);
        allowance.received(VICTIM, VICTIM, 20);
        assert_eq!(allowance.datagrams(10, 1200, now(), ConnectionStats::default), 1);
    }

    #[test]
    fn nothing_is_made_in_vain_once_the_account_is_spent() {
        let mut allowance = Allowance::default();
        allowance.moved(CLIENT, VICTIM, 0);
        allowance.received(VICTIM, VICTIM, 450);
        assert_eq!(allowance.datagrams(10, 1200, now(), ConnectionStats::default), 1);
        assert_eq!(ask(&mut allowance, now()), Verdict::Send);
        assert_eq!(allowance.datagrams(10, 1200, now(), ConnectionStats::default), 0);
    }

    #[test]
    fn a_packet_without_a_challenge_shows_that_it_was_met() {
        let mut allowance = Allowance::default();
        allowance.moved(CLIENT, VICTIM, 0);
        assert_eq!(ask(&mut allowance, now()), Verdict::Send);
        assert_eq!(allowance.datagrams(10, 1200, now(), || counts(1, 1)), 1);
        assert_eq!(allowance.judge(1200, now(), &counts(1, 1), &counts(1, 1)), Verdict::Send);
        assert_eq!(allowance.datagrams(10, 1200, now(), ConnectionStats::default), 10);
    }

    #[test]
    fn a_wrong_answer_opens_nothing() {
        let mut allowance = Allowance::default();
        allowance.moved(CLIENT, VICTIM, 0);
        assert_eq!(ask(&mut allowance, now()), Verdict::Send);
        assert_eq!(allowance.datagrams(10, 1200, now(), || counts(1, 1)), 1);
        assert_eq!(allowance.judge(1200, now(), &counts(1, 1), &counts(2, 1)), Verdict::Withhold);
        assert_eq!(allowance.datagrams(10, 1200, now(), || counts(2, 1)), 0);
    }

    #[test]
    fn few_addresses_are_asked_in_advance_before_one_is_proven() {
        let (mut allowance, start) = (Allowance::default(), now());
        let sent = (0..100).filter(|port| {
            allowance.moved(CLIENT, address(1000 + port), 0);
            ask(&mut allowance, start) == Verdict::Send
        });
        assert_eq!(sent.count(), ADVANCES as usize);
        assert_eq!(ask(&mut allowance, start + RESPITE), Verdict::Send);
    }

    #[test]
    fn an_answer_to_a_challenge_is_no_longer_than_three_times_the_challenge() {
        let mut allowance = Allowance::default();
        allowance.received(VICTIM, CLIENT, 399);
        assert_eq!(allowance.judge_other(VICTIM, 1200), Verdict::Withhold);
        allowance.received(VICTIM, CLIENT, 1);
        assert_eq!(allowance.judge_other(VICTIM, 1200), Verdict::Send);
        assert_eq!(allowance.judge_other(VICTIM, 1200), Verdict::Withhold);
    }

    #[test]
    fn the_address_before_is_asked_whatever_came_from_there() {
        let mut allowance = Allowance::default();
        allowance.moved(CLIENT, VICTIM, 0);
        assert_eq!(allowance.judge_other(CLIENT, 1200), Verdict::Send);
    }
}
