//! What the areas that are mapped on demand know of an address: the area, the guard page behind it, or what was there before.

use core::fmt;

use kspace_layout::{ByteSize, FRAME_SIZE, VirtAddr};

use crate::vmalloc::{AreaInfo, Kernel, Kind, State, Vmalloc};

/// What lies at an address of the vmalloc area, or one like it. Its `Display` names it:
///
/// ```text
///   guard page of the vmalloc area ffffc90000042000-ffffc90000045fff (16 KiB, made by src/initramfs.rs:71), the first byte past its end
///   guard page below the stack ffffc90000048000-ffffc9000004bfff (16 KiB, made by src/thread.rs:12), 8 bytes below it
///   4 KiB into the freed vmalloc area ffffc90000042000-ffffc90000045fff (16 KiB, freed by src/initramfs.rs:93)
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AreaSpot {
    address: VirtAddr,
    /// The area that has the address, or its guard page.
    area: Option<AreaInfo>,
    /// The stack to which the page is the guard below.
    stack: Option<AreaInfo>,
}

impl AreaSpot {
    /// What `areas` knows of `address`; `None` when no area is, or was, there.
    ///
    /// Waits for no lock of `areas`, so it says less while another CPU changes the books of large areas, or was stopped doing so.
    #[must_use]
    pub fn of<K: Kernel, const CPUS: usize>(
        areas: &Vmalloc<'_, K, CPUS>,
        address: VirtAddr,
    ) -> Option<Self> {
        let above = address.align_down(FRAME_SIZE).checked_add(FRAME_SIZE).ok();
        // The first stack may have its guard before all areas.
        let area = areas.try_find(address);
        let stack = above
            .filter(|_| area.is_none_or(|area| !area.range.contains(address)))
            .and_then(|above| areas.try_find(above))
            .filter(|stack| {
                stack.kind == Kind::Stack
                    && stack.state == State::Live
                    && Some(stack.range.start()) == above
            });
        (area.is_some() || stack.is_some()).then_some(Self {
            address,
            area,
            stack,
        })
    }

    /// The area that has the address, or whose guard page has it.
    #[must_use]
    pub const fn area(&self) -> Option<AreaInfo> {
        self.area
    }

    /// The stack below whose lowest address the page lies.
    #[must_use]
    pub const fn stack(&self) -> Option<AreaInfo> {
        self.stack
    }

    /// Whether it is a guard page: of an area below, of a stack above, or both.
    #[must_use]
    pub fn is_guard(&self) -> bool {
        self.area
            .is_none_or(|area| !area.range.contains(self.address))
    }

    fn write_area(&self, f: &mut fmt::Formatter<'_>, area: &AreaInfo) -> fmt::Result {
        let from_start = self.address.as_u64() - area.range.start().as_u64();
        if area.range.contains(self.address) {
            if from_start == 0 {
                f.write_str("the start of ")?;
            } else {
                write!(f, "{} into ", ByteSize(from_start))?;
            }
            return write!(f, "{}", Named(area));
        }
        write!(f, "guard page of {}, ", Named(area))?;
        match from_start - area.range.size() {
            0 => f.write_str("the first byte past its end"),
            past => write!(f, "{} past its end", ByteSize(past)),
        }
    }
}

impl fmt::Display for AreaSpot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(stack) = &self.stack {
            let below = stack.range.start().as_u64() - self.address.as_u64();
            let (named, below) = (Named(stack), ByteSize(below));
            write!(f, "guard page below {named}, {below} below it")?;
            if self.area.is_some() {
                f.write_str("; and ")?;
            }
        }
        match &self.area {
            Some(area) => self.write_area(f, area),
            None => Ok(()),
        }
    }
}

/// `the freed vmalloc area ffffc90000042000-ffffc90000045fff (16 KiB, freed by src/initramfs.rs:93)`
struct Named<'i>(&'i AreaInfo);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AreaInfo {
            range,
            kind,
            state,
            caller,
            ..
        } = *self.0;
        let (freed, done) = match state {
            State::Live => ("", "made"),
            State::Freed => ("freed ", "freed"),
        };
        let noun = if kind == Kind::Stack { "" } else { " area" };
        write!(
            f,
            "the {freed}{kind}{noun} {range} ({}",
            ByteSize(range.size())
        )?;
        if let Some(caller) = caller {
            write!(f, ", {done} by {}:{}", caller.file(), caller.line())?;
        }
        f.write_str(")")
    }
}
