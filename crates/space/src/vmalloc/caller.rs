//! Who called, in 32 bits: where the compiler's note of the place lies, counted from a fixed point of the image.

use core::panic::Location;

/// The fixed point. Notes of places are constants of the same image, which is never 2 GiB large.
static ANCHOR: u8 = 0;

/// A place in the source, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Caller(u32);

impl Caller {
    /// Where the caller of a function with `#[track_caller]` was called.
    #[inline(always)]
    #[track_caller]
    pub(crate) fn here() -> Self {
        Self::of(Location::caller())
    }

    #[inline(always)]
    pub(crate) fn of(place: &'static Location<'static>) -> Self {
        let address = core::ptr::from_ref(place).expose_provenance();
        let distance = address.wrapping_sub(core::ptr::from_ref(&ANCHOR).addr()) as isize;
        // A place too far away, in another image, is forgotten rather than mistaken. None is at the fixed point itself.
        i32::try_from(distance).map_or(Self(0), |distance| Self(distance as u32))
    }

    /// What [`raw`](Self::raw) gave.
    pub(crate) const fn from_raw(raw: u32) -> Self {
        Self(raw)
    }

    #[inline(always)]
    pub(crate) const fn raw(self) -> u32 {
        self.0
    }

    /// The place; `None` when it is not known.
    ///
    /// # Safety
    ///
    /// `raw` came from [`raw`](Self::raw).
    pub(crate) unsafe fn place(raw: u32) -> Option<&'static Location<'static>> {
        if raw == 0 {
            return None;
        }
        let distance = raw as i32 as isize;
        let place = core::ptr::from_ref(&ANCHOR)
            .addr()
            .wrapping_add_signed(distance);
        // SAFETY: this undoes `of`, so it is the address of a place that lives as long as the program.
        Some(unsafe { &*core::ptr::with_exposed_provenance(place) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_comes_back_from_its_distance() {
        let (caller, line) = (Caller::here(), line!());
        // SAFETY: the number came from `raw`.
        let place = unsafe { Caller::place(caller.raw()) };
        let place = place.expect("the test is one image");
        assert_eq!((place.file(), place.line()), (file!(), line));
        // SAFETY: zero stands for no place.
        assert_eq!(unsafe { Caller::place(0) }, None);
    }
}
