//! How many descriptors this process may have.

/// The soft limit now (RLIMIT_NOFILE): the number that no new descriptor reaches, since the kernel gives the lowest free.
pub fn descriptor_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel fills the structure, which outlives the call.
    let result = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    if result < 0 { u64::MAX } else { limit.rlim_cur }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_for_what_is_open() {
        assert!(descriptor_limit() > 3);
    }
}
