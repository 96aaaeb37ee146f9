//! A stopped guest: its paging registers, and its page tables read out of its memory page by page.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;

use kspace_layout::{FRAME_SIZE, PagingMode, PhysAddr};
use kspace_paging::EntryRead;

use crate::failure::{Failure, Result};
use crate::qemu::monitor::Monitor;
use crate::qemu::paused::Paused;

/// CR4's bit for 5-level paging (Intel SDM vol. 3, section 2.5).
const CR4_LA57: u64 = 1 << 12;

/// The guest's physical memory, read by `pmemsave` when a table in it is first needed and kept: the guest is stopped.
#[derive(Debug)]
pub(crate) struct GuestMemory {
    state: RefCell<State>,
    file: PathBuf,
}

#[derive(Debug)]
struct State {
    monitor: Monitor,
    frames: BTreeMap<u64, Vec<u8>>,
    failure: Option<Failure>,
}

impl GuestMemory {
    /// Reads through `monitor`; `paused` must stay stopped meanwhile.
    pub(crate) fn new(paused: &Paused, monitor: Monitor) -> Self {
        let state = State {
            monitor,
            frames: BTreeMap::new(),
            failure: None,
        };
        Self {
            state: RefCell::new(state),
            file: paused.folder().join("frame"),
        }
    }

    /// How many frames were read, or why one could not be.
    ///
    /// # Errors
    ///
    /// What the monitor said to the first read that failed.
    pub(crate) fn frames_read(self) -> Result<usize> {
        let state = self.state.into_inner();
        state.failure.map_or(Ok(state.frames.len()), Err)
    }

    /// `N` bytes at `address`, which lie in one frame.
    fn bytes<const N: usize>(&self, address: PhysAddr) -> Option<[u8; N]> {
        let offset = (address.as_u64() % FRAME_SIZE) as usize;
        let frame = address.as_u64() - offset as u64;
        let state = &mut *self.state.borrow_mut();
        if !state.frames.contains_key(&frame) {
            match state
                .monitor
                .read_physical(frame, FRAME_SIZE as usize, &self.file)
            {
                Ok(bytes) => drop(state.frames.insert(frame, bytes)),
                Err(failure) => {
                    state.failure.get_or_insert(failure);
                    return None;
                }
            }
        }
        state
            .frames
            .get(&frame)?
            .get(offset..offset + N)?
            .try_into()
            .ok()
    }
}

impl EntryRead for GuestMemory {
    fn read_u32(&self, entry: PhysAddr) -> Option<u32> {
        self.bytes(entry).map(u32::from_le_bytes)
    }

    fn read_u64(&self, entry: PhysAddr) -> Option<u64> {
        self.bytes(entry).map(u64::from_le_bytes)
    }
}

/// Where translation begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Root {
    /// 4-level or 5-level.
    pub(crate) mode: PagingMode,
    /// CR3, its flag bits included.
    pub(crate) cr3: PhysAddr,
}

impl Root {
    /// Reads `info registers`.
    ///
    /// # Errors
    ///
    /// When the registers are not there.
    pub(crate) fn of(monitor: &mut Monitor) -> Result<Self> {
        let printed = monitor.human("info registers")?;
        Self::parse(&printed)
            .ok_or_else(|| Failure::failed(format!("no CR3 and CR4 in info registers:\n{printed}")))
    }

    fn parse(printed: &str) -> Option<Self> {
        let register = |name: &str| {
            let text = printed.split_once(name)?.1;
            u64::from_str_radix(text.split_whitespace().next()?, 16).ok()
        };
        let five = register("CR4=")? & CR4_LA57 != 0;
        Some(Self {
            mode: if five {
                PagingMode::FiveLevel
            } else {
                PagingMode::FourLevel
            },
            cr3: PhysAddr::try_new(register("CR3=")?).ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_read_from_qemus_registers() {
        let root =
            Root::parse("CR0=80010033 CR2=0000000000000000 CR3=0000000001234000 CR4=000010b0\r\n");
        assert_eq!(
            root,
            Some(Root {
                mode: PagingMode::FiveLevel,
                cr3: PhysAddr::new(0x123_4000)
            })
        );
        assert_eq!(
            Root::parse("CR3=00000000fff00018 CR4=000006b0").map(|root| root.mode),
            Some(PagingMode::FourLevel)
        );
        assert_eq!(Root::parse("EAX=00000000"), None);
    }
}
