//! Questions to the kernel over netlink(7), about the calling thread's network namespace: dumps of what there is, message
//! by message.

use std::io;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with,
};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const REQUEST_DUMP: u16 = 0x1 | 0x300;
/// What else an attribute's type says.
const NLA_TYPE_MASK: u16 = 0x3fff;
/// Sizes of `struct nlmsghdr` and `nlattr`.
const HEADER: usize = 16;
const ATTRIBUTE: usize = 4;

/// Asks for all there is of a kind. `body` is what follows the header; `each` gets what follows the header of each answer,
/// and an error of its ends the dump.
///
/// # Errors
/// The kernel's, and those of `each`.
pub(super) fn dump(
    protocol: Option<Protocol>,
    kind: u16,
    body: &[u8],
    mut each: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
    let length = u32::try_from(HEADER + body.len()).map_err(io::Error::other)?;
    let header = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &REQUEST_DUMP.to_ne_bytes(), &[0; 8]];
    let request = [&header.concat(), body].concat();
    sendto(&socket, &request, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let (length, _) = rustix::io::retry_on_intr(|| recv(&socket, &mut buffer[..], RecvFlags::empty()))?;
        if !read_messages(buffer.get(..length).unwrap_or_default(), &mut each)? {
            return Ok(());
        }
    }
}

/// Whether more is to come.
fn read_messages(mut bytes: &[u8], mut each: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<bool> {
    while let (Some(length), Some(kind)) = (u32_at(bytes, 0), u16_at(bytes, 4)) {
        let length = usize::try_from(length).map_err(io::Error::other)?;
        let Some(message) = bytes.get(HEADER..length) else {
            return Err(io::Error::other("the kernel's list is cut off"));
        };
        match kind {
            NLMSG_DONE => return Ok(false),
            NLMSG_ERROR => {
                let errno = u32_at(message, 0).unwrap_or_default().cast_signed();
                return Err(io::Error::from_raw_os_error(errno.saturating_neg()));
            }
            _ => each(message)?,
        }
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
    }
    Ok(true)
}

/// One attribute; ours need no padding.
pub(super) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(ATTRIBUTE + value.len()).unwrap_or_default();
    [&length.to_ne_bytes(), &kind.to_ne_bytes(), value].concat()
}

/// Types and values.
pub(super) struct Attributes<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16_at(self.0, 0)?);
        let kind = u16_at(self.0, 2)? & NLA_TYPE_MASK;
        let value = self.0.get(ATTRIBUTE..length)?;
        self.0 = self.0.get(aligned(length)..).unwrap_or_default();
        Some((kind, value))
    }
}

pub(super) const fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_cut_off_is_an_error() {
        let mut message = vec![0; 16];
        message[..4].copy_from_slice(&100_u32.to_ne_bytes());
        assert!(read_messages(&message, |_| Ok(())).is_err());
    }

    #[test]
    fn an_error_message_is_the_errno_it_names() {
        let mut message = vec![0; 36];
        message[..4].copy_from_slice(&36_u32.to_ne_bytes());
        message[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
        message[16..20].copy_from_slice(&(-libc::ENOENT).to_ne_bytes());
        let error = read_messages(&message, |_| Ok(())).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    }
}
