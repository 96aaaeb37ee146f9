//! What a fault means, in the layout's own words.
//!
//! ```text
//!   write to ffffffff81001068: read-only, kernel text, 4.1 KiB into .text
//!   write to fffffe0000005ff8: not mapped, guard page of CPU 0's #DF stack
//!   read of ffff8880000b0000 ...
//!   |        |                 |          |
//!   |        |                 |          [`Spot`]: what lies there, by layout, image and memory map
//!   |        |                 [`Cause`]: what was wrong with it, by the error code
//!   |        the address, from CR2
//!   what the access was, by the error code
//! ```
//!
//! The explanation needs no page tables, so it works when they are broken. Where they can be walked, [`PageTables`]
//! adds what they say. What was [changed](Changed) on purpose is told with who did it. About areas that are mapped on demand, [`AreaSpot`] knows more than the layout does.

mod cause;
mod on_demand;
mod spot;
mod tables;

use core::fmt;

use kspace_frames::MemoryMap;
use kspace_layout::{AreaState, FRAME_SIZE, Layout, VirtAddr};
use kspace_paging::access::error_code;
use kspace_paging::{Intent, Operation, Walk};

use crate::fixmap::SlotSpot;
use crate::permissions::Changed;

pub use cause::Cause;
pub use on_demand::AreaSpot;
pub(crate) use spot::write_slot;
pub use spot::{Backing, Spot};
pub use tables::PageTables;

/// A page fault as the CPU reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageFault {
    /// The address accessed, from CR2.
    pub address: VirtAddr,
    /// The error code that the CPU pushed (Intel SDM vol. 3, section 5.7).
    pub error_code: u32,
}

impl PageFault {
    /// The fault at `address` with this error code.
    #[must_use]
    pub const fn new(address: VirtAddr, error_code: u32) -> Self {
        Self {
            address,
            error_code,
        }
    }

    /// What the access was.
    #[must_use]
    pub const fn intent(&self) -> Intent {
        let operation = if self.error_code & error_code::FETCH != 0 {
            Operation::Fetch
        } else if self.error_code & error_code::WRITE != 0 {
            Operation::Write
        } else {
            Operation::Read
        };
        Intent {
            operation,
            user: self.error_code & error_code::USER != 0,
        }
    }
}

/// Explains a page fault. `walk`, if the tables could be walked to the address, settles what the error code leaves
/// open.
#[must_use]
pub fn explain(
    layout: &Layout,
    map: &MemoryMap,
    fault: PageFault,
    walk: Option<&Walk>,
) -> Explanation {
    let spot = Spot::of(layout, map, fault.address);
    let cause = Cause::of(&fault, &spot, walk);
    Explanation {
        address: fault.address.as_u64(),
        intent: Some(fault.intent()),
        cause,
        spot,
        changed: None,
    }
}

/// Explains an access to an address that is not canonical in `layout`'s mode, which raises a general-protection fault.
/// The CPU does not report the address; whoever decodes the instruction, or guesses by the registers, can.
#[must_use]
pub fn explain_not_canonical(layout: &Layout, address: u64) -> Explanation {
    let spot = Spot::OutsideMode(layout.mode());
    Explanation {
        address,
        intent: None,
        cause: Cause::NotCanonical,
        spot,
        changed: None,
    }
}

/// Why an access faulted. Its `Display` is one line, without a line end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Explanation {
    address: u64,
    /// `None` when the CPU does not say.
    intent: Option<Intent>,
    cause: Cause,
    spot: Spot,
    changed: Option<Changed>,
}

impl Explanation {
    /// What was wrong.
    #[must_use]
    pub const fn cause(&self) -> Cause {
        self.cause
    }

    /// What lies at the address.
    #[must_use]
    pub const fn spot(&self) -> Spot {
        self.spot
    }

    /// The same with what an area mapped on demand says about the address, if it says something.
    #[must_use]
    pub const fn with_area(self, area: Option<AreaSpot>) -> Self {
        match area {
            Some(area) => Self {
                spot: Spot::OnDemand(area),
                ..self
            },
            None => self,
        }
    }

    /// The same with what a slot of the fixmap shows, if the address lies in one.
    #[must_use]
    pub const fn with_slot(self, slot: Option<SlotSpot>) -> Self {
        match slot {
            Some(slot) => Self {
                spot: Spot::Slot(slot),
                ..self
            },
            None => self,
        }
    }

    /// The same with what was changed about the page since it was mapped, if anything was.
    #[must_use]
    pub const fn with_change(self, changed: Option<Changed>) -> Self {
        Self { changed, ..self }
    }

    /// What the area that holds the address is for, in a few plain sentences, when the kernel has nothing there:
    /// whoever touched it may not know it.
    #[must_use]
    pub const fn purpose(&self) -> Option<&'static str> {
        match self.spot {
            Spot::Area { area, .. } if matches!(area.state(), AreaState::Reserved) => {
                Some(area.purpose())
            }
            _ => None,
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (user, access) = match self.intent {
            Some(Intent { operation, user }) => {
                let access = match operation {
                    Operation::Read => "read of",
                    Operation::Write => "write to",
                    Operation::Fetch => "execution of",
                };
                (if user { "user " } else { "" }, access)
            }
            None => ("", "access to"),
        };
        write!(
            f,
            "{user}{access} {:016x}: {}, {}",
            self.address, self.cause, self.spot
        )?;
        match self.changed {
            Some(changed) => write!(
                f,
                "; page {} was {changed}",
                VirtAddr::new(self.address).align_down(FRAME_SIZE)
            ),
            None => Ok(()),
        }
    }
}
