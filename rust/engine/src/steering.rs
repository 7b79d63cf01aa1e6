//! Which of several processes on one port a datagram is for: a rule that a program in the kernel and all of them share.
//!
//! Each process has a slot, and issues connection IDs that say which one:
//!
//! ```text
//!   0        4      6      8
//!   +--------+------+------+     slot = hash(head) % slots
//!   |  head  | mark | rest |     mark = hash(head) again, so that a client's first choice, which is random, is not
//!   +--------+------+------+            taken for one of ours
//! ```
//!
//! Head and rest are random. Both hashes have a key: to an onlooker, the connection IDs of one client have no more in
//! common than those of two (RFC 9000 §5.1). The hashes are made for the kernel's classic BPF, and keep curiosity out
//! rather than cryptanalysis; what somebody gains who breaks them is the number of the process.

use aws_lc_rs::hkdf::Prk;
use quinn_proto::{ConnectionId, ConnectionIdGenerator, InvalidCid, RandomConnectionIdGenerator};

use crate::workers::expand;

/// Bytes of each connection ID.
pub(crate) const ID_LENGTH: usize = 8;
const MARK: usize = 4;

/// A longer list would make a program that the kernel does not take (BPF_MAXINSNS).
const MOST_SLOTS: usize = 512;

/// One instruction of classic BPF: code, where to jump if true and if false, operand (`struct sock_filter`).
pub type Instruction = (u16, u8, u8, u32);

/// The rule, for so many slots.
#[derive(Clone, Copy, Debug)]
pub struct Steering {
    slots: u32,
    head_key: u32,
    head_factors: [u32; 2],
    mark_key: u32,
    mark_factor: u32,
}

impl Steering {
    pub(crate) fn new(secret: &Prk, slots: u32) -> Self {
        let keys: [u8; 20] = expand(secret, b"steering");
        let word = |at: usize| u32::from_be_bytes([keys[at], keys[at + 1], keys[at + 2], keys[at + 3]]);
        // By an odd factor, nothing is lost.
        Self {
            slots: slots.max(1),
            head_key: word(0),
            head_factors: [word(4) | 1, word(8) | 1],
            mark_key: word(12),
            mark_factor: word(16) | 1,
        }
    }

    /// The slot that issued a connection ID, if one of ours did.
    pub fn slot(&self, id: &[u8]) -> Option<u32> {
        let (head, rest) = id.split_first_chunk().filter(|_| id.len() == ID_LENGTH)?;
        let hash = self.hash(u32::from_be_bytes(*head));
        (rest[..2] == self.mark(hash)).then_some(hash % self.slots)
    }

    fn hash(&self, head: u32) -> u32 {
        let hash = (head ^ self.head_key).wrapping_mul(self.head_factors[0]);
        let hash = (hash ^ hash >> 16).wrapping_mul(self.head_factors[1]);
        hash ^ hash >> 15
    }

    fn mark(&self, hash: u32) -> [u8; 2] {
        let [first, second, ..] = (hash ^ self.mark_key).wrapping_mul(self.mark_factor).to_be_bytes();
        [first, second]
    }

    /// The rule for the kernel, which gives it the UDP payload and takes the index of a socket (SO_REUSEPORT).
    ///
    /// `sockets`: for each slot, which socket its datagrams go to; `newcomers`: those that take what is addressed to no
    /// slot, evenly. `None`: they are too many, or there are none.
    pub fn program(&self, sockets: &[u32], newcomers: &[u32]) -> Option<Vec<Instruction>> {
        const LOAD_LENGTH: u16 = 0x80; // ld #len
        const LOAD_BYTE: u16 = 0x30; // ldb [k]
        const LOAD_WORD_AT_X: u16 = 0x40; // ld [x + k]
        const LOAD_HALF_AT_X: u16 = 0x48; // ldh [x + k]
        const LOAD: u16 = 0x60; // ld M[k]
        const LOAD_X: u16 = 0x61; // ldx M[k]
        const SET_X: u16 = 0x01; // ldx #k
        const STORE: u16 = 0x02; // st M[k]
        const STORE_X: u16 = 0x03; // stx M[k]
        const MULTIPLY: u16 = 0x24; // mul #k
        const SHIFT: u16 = 0x74; // rsh #k
        const MODULO: u16 = 0x94; // mod #k
        const XOR: u16 = 0xa4; // xor #k
        const XOR_X: u16 = 0xac; // xor x
        const COPY_TO_X: u16 = 0x07; // tax
        const JUMP: u16 = 0x05; // ja k
        const EQUALS: u16 = 0x15; // jeq #k
        const EQUALS_X: u16 = 0x1d; // jeq x
        const AT_LEAST: u16 = 0x35; // jge #k
        const HAS: u16 = 0x45; // jset #k
        const RETURN: u16 = 0x06; // ret #k
        const RETURN_A: u16 = 0x16; // ret a
        // Places in the program's memory.
        const WHERE: u32 = 0;
        const HASH: u32 = 1;
        const MARKED: u32 = 2;

        let (first, slots) = (*newcomers.first()?, self.slots as usize);
        if sockets.len() != slots || slots > MOST_SLOTS || newcomers.len() > MOST_SLOTS {
            return None;
        }
        // Where the connection ID stands (RFC 8999 §5): behind one byte, or, in a long header, behind the version and
        // its own length as well. What is too short for either is no packet of ours, and goes to somebody who drops it.
        let shortest = 6 + ID_LENGTH as u32;
        let mut program = vec![
            (LOAD_LENGTH, 0, 0, 0),
            (AT_LEAST, 1, 0, shortest),
            (RETURN, 0, 0, first),
            (LOAD_BYTE, 0, 0, 0),
            (SET_X, 0, 0, 6),
            (HAS, 1, 0, 0x80),
            (SET_X, 0, 0, 1),
            (STORE_X, 0, 0, WHERE),
            (LOAD_WORD_AT_X, 0, 0, 0),
            (XOR, 0, 0, self.head_key),
            (MULTIPLY, 0, 0, self.head_factors[0]),
            (COPY_TO_X, 0, 0, 0),
            (SHIFT, 0, 0, 16),
            (XOR_X, 0, 0, 0),
            (MULTIPLY, 0, 0, self.head_factors[1]),
            (COPY_TO_X, 0, 0, 0),
            (SHIFT, 0, 0, 15),
            (XOR_X, 0, 0, 0),
            (STORE, 0, 0, HASH),
            (XOR, 0, 0, self.mark_key),
            (MULTIPLY, 0, 0, self.mark_factor),
            (SHIFT, 0, 0, 16),
            (STORE, 0, 0, MARKED),
            (LOAD_X, 0, 0, WHERE),
            (LOAD_HALF_AT_X, 0, 0, MARK as u32),
            (LOAD_X, 0, 0, MARKED),
        ];
        let moved: Vec<_> = (0..).zip(sockets).filter(|(slot, socket)| slot != *socket).collect();
        let ours = 3 + 2 * moved.len() as u32;
        program.extend([(EQUALS_X, 1, 0, 0), (JUMP, 0, 0, ours), (LOAD, 0, 0, HASH), (MODULO, 0, 0, self.slots)]);
        for (slot, &socket) in moved {
            program.extend([(EQUALS, 0, 1, slot), (RETURN, 0, 0, socket)]);
        }
        program.push((RETURN_A, 0, 0, 0));
        program.extend([(LOAD, 0, 0, HASH), (MODULO, 0, 0, newcomers.len() as u32)]);
        for (turn, &socket) in (0..).zip(newcomers) {
            program.extend([(EQUALS, 0, 1, turn), (RETURN, 0, 0, socket)]);
        }
        program.push((RETURN, 0, 0, first));
        Some(program)
    }
}

/// Issues the connection IDs of one slot, and knows them again.
pub(crate) struct SlotIds {
    random: RandomConnectionIdGenerator,
    steering: Steering,
    slot: u32,
}

impl SlotIds {
    pub(crate) fn new(steering: Steering, slot: u32) -> Self {
        Self { random: RandomConnectionIdGenerator::new(ID_LENGTH), steering, slot }
    }
}

impl ConnectionIdGenerator for SlotIds {
    fn generate_cid(&mut self) -> ConnectionId {
        loop {
            let mut id = self.random.generate_cid();
            let Some(head) = id.first_chunk() else { return id };
            let hash = self.steering.hash(u32::from_be_bytes(*head));
            // As many tries as there are slots, on average.
            if hash % self.steering.slots == self.slot {
                id[MARK..MARK + 2].copy_from_slice(&self.steering.mark(hash));
                return id;
            }
        }
    }

    /// Another process's, and it may well stand there: not ours to reset (RFC 9000 §10.3). It comes here only where the
    /// kernel joined it with one of ours (GRO), which it does when a client has several connections on one port.
    fn validate(&self, id: &ConnectionId) -> Result<(), InvalidCid> {
        if self.steering.slot(id) == Some(self.slot) { Ok(()) } else { Err(InvalidCid) }
    }

    fn cid_len(&self) -> usize {
        ID_LENGTH
    }

    fn cid_lifetime(&self) -> Option<std::time::Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::workers::secret;

    fn steering(slots: u32) -> Steering {
        Steering::new(&secret(b"a secret"), slots)
    }

    #[test]
    fn each_slot_knows_its_own_and_no_other() {
        let mut seen = HashSet::new();
        for slot in 0..6 {
            let mut ids = SlotIds::new(steering(6), slot);
            for _ in 0..200 {
                let id = ids.generate_cid();
                assert!(seen.insert(id));
                assert_eq!(steering(6).slot(&id), Some(slot));
                assert!(ids.validate(&id).is_ok());
                assert!(SlotIds::new(steering(6), (slot + 1) % 6).validate(&id).is_err());
            }
        }
    }

    #[test]
    fn what_clients_choose_is_not_taken_for_one_of_ours() {
        let mut random = RandomConnectionIdGenerator::new(ID_LENGTH);
        let mistaken = (0..10_000).filter(|_| steering(4).slot(&random.generate_cid()).is_some()).count();
        assert!(mistaken < 4, "{mistaken} of 10000, of which one in 65536 is expected");
        assert_eq!(steering(4).slot(&[0; 7]), None);
    }

    #[test]
    fn the_first_byte_does_not_tell_the_slot() {
        for slot in 0..4 {
            let mut ids = SlotIds::new(steering(4), slot);
            let first: HashSet<u8> = (0..4096).map(|_| ids.generate_cid()[0]).collect();
            assert!(first.len() > 250);
        }
    }

    #[test]
    fn there_is_no_program_without_sockets_or_with_too_many() {
        assert!(steering(2).program(&[0, 1], &[]).is_none());
        assert!(steering(2).program(&[0], &[0]).is_none());
        assert!(steering(1024).program(&vec![0; 1024], &[0]).is_none());
        assert!(steering(512).program(&vec![0; 512], &vec![1; 512]).is_some_and(|program| program.len() <= 4096));
    }
}
