//! Names and indices of network interfaces.

use std::ffi::{CStr, CString};

/// The name of an interface, such as `wlan0`; `None` when there is none of this index.
pub fn interface_name(index: u32) -> Option<String> {
    let mut buffer = [0; libc::IF_NAMESIZE];
    // SAFETY: the buffer has the IF_NAMESIZE bytes that the call may write.
    let found = unsafe { libc::if_indextoname(index, buffer.as_mut_ptr()) };
    if found.is_null() {
        return None;
    }
    // SAFETY: a pointer that is not null is the buffer, which the call ended with a zero byte.
    let name = unsafe { CStr::from_ptr(found) };
    name.to_str().ok().map(str::to_owned)
}

/// The index of an interface; `None` when there is none of this name.
pub fn interface_index(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    // SAFETY: the argument is a C string that outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    (index != 0).then_some(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_a_name_and_an_index() {
        let index = interface_index("lo").expect("every Linux has lo");
        assert_eq!(interface_name(index).as_deref(), Some("lo"));
    }

    #[test]
    fn what_does_not_exist_is_none() {
        assert_eq!(interface_name(u32::MAX), None);
        assert_eq!(interface_index("no-such-interface"), None);
        assert_eq!(interface_index("nul\0inside"), None);
    }
}
