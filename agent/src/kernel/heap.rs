//! Giving memory back that loading has taken and freed.
//!
//! The loader reads the types of the whole kernel, some megabytes in small pieces, and drops them again. The C library
//! would keep their pages for a process that goes on to need as much, and this one does not.
#![cfg_attr(target_env = "gnu", expect(unsafe_code, reason = "a call of the C library"))]

/// Gives free pages of the heap back to the system, where the C library is GNU's; others do so by themselves.
pub(super) fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the function takes any number, locks what it looks at, and touches no memory that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}
