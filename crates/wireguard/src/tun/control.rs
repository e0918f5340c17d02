//! The system calls that set a TUN device up.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use nix::errno::Errno;

/// The longest name of an interface.
pub(super) const LONGEST_NAME: usize = 15;

/// The kernel's `struct ifreq`: a name, and what is asked or told of that interface.
#[repr(C, align(8))]
struct Request {
    name: [u8; LONGEST_NAME + 1],
    value: [u8; 24],
}

/// Makes a device, or takes one that is there and belongs to nobody. `name` is not longer than `LONGEST_NAME`.
pub(super) fn attach(device: BorrowedFd<'_>, name: &str, flags: i16) -> io::Result<()> {
    let mut request = Request::new(name, &flags.to_ne_bytes());
    ask(device, libc::TUNSETIFF, &mut request)
}

pub(super) fn set_header_length(device: BorrowedFd<'_>, length: usize) -> io::Result<()> {
    let mut length = libc::c_int::try_from(length).map_err(io::Error::other)?;
    #[expect(unsafe_code, reason = "this request has no safe wrapper")]
    // SAFETY: TUNSETVNETHDRSZ reads one int, which lives until the call has returned.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw mut length) };
    Ok(Errno::result(result).map(drop)?)
}

/// Says what may be left undone in packets that the kernel hands over.
pub(super) fn set_offloads(device: BorrowedFd<'_>, offloads: libc::c_uint) -> io::Result<()> {
    #[expect(unsafe_code, reason = "this request has no safe wrapper")]
    // SAFETY: TUNSETOFFLOAD takes a number, not a pointer.
    let result = unsafe {
        libc::ioctl(
            device.as_raw_fd(),
            libc::TUNSETOFFLOAD,
            libc::c_ulong::from(offloads),
        )
    };
    Ok(Errno::result(result).map(drop)?)
}

/// The MTU of an interface; `socket` is any socket.
pub(super) fn mtu(socket: BorrowedFd<'_>, name: &str) -> io::Result<u32> {
    let mut request = Request::new(name, &[]);
    ask(socket, libc::SIOCGIFMTU as libc::Ioctl, &mut request)?;
    let [a, b, c, d, ..] = request.value;
    Ok(u32::from_ne_bytes([a, b, c, d]))
}

pub(super) fn set_mtu(socket: BorrowedFd<'_>, name: &str, mtu: u32) -> io::Result<()> {
    let mut request = Request::new(name, &mtu.to_ne_bytes());
    ask(socket, libc::SIOCSIFMTU as libc::Ioctl, &mut request)
}

impl Request {
    fn new(name: &str, value: &[u8]) -> Self {
        let mut request = Self {
            name: [0; LONGEST_NAME + 1],
            value: [0; 24],
        };
        // The last byte stays zero.
        for (to, from) in request.name.iter_mut().zip(name.bytes().take(LONGEST_NAME)) {
            *to = from;
        }
        for (to, from) in request.value.iter_mut().zip(value) {
            *to = *from;
        }
        request
    }
}

fn ask(to: BorrowedFd<'_>, request: libc::Ioctl, about: &mut Request) -> io::Result<()> {
    #[expect(unsafe_code, reason = "these requests have no safe wrapper")]
    // SAFETY: each request that is made here reads or writes a `struct ifreq`, which `Request` is as long as, and which lives until
    // the call has returned.
    let result = unsafe { libc::ioctl(to.as_raw_fd(), request, std::ptr::from_mut(about)) };
    Ok(Errno::result(result).map(drop)?)
}
