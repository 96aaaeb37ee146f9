//! What was changed since it was built, laid over what was built: [`ChangedPages`].
//!
//! ```text
//!   built      |        1G page        |        1G page        |
//!   changed           [ r ]
//!   expected   |......[ r ]............|        1G page        |      around a change pages may be smaller: it was split
//! ```

use core::fmt;

use kspace_layout::{FRAME_SIZE, VirtAddr, VirtRange};
use kspace_paging::Protection;

use super::expect::Expected;
use crate::permissions::{Changed, Permissions};
use crate::vmalloc::Kernel;

/// Whoever knows which pages were changed on purpose, and to what.
pub trait ChangedPages: fmt::Debug {
    /// The first of them at or behind `from`, and those behind it of which the same is known.
    fn next_changed(&self, from: VirtAddr) -> Option<Changed>;
}

impl<K: Kernel, const CPUS: usize> ChangedPages for Permissions<'_, '_, K, CPUS> {
    fn next_changed(&self, from: VirtAddr) -> Option<Changed> {
        Permissions::next_changed(self, from)
    }
}

/// What is expected where pages may have been changed.
pub(super) struct WithChanges<'c, I> {
    built: I,
    /// What is left of the last one.
    rest: Option<Expected>,
    changes: Option<&'c dyn ChangedPages>,
    /// Below this address pages may be smaller than they were built.
    split_until: u64,
}

impl<'c, I: Iterator<Item = Expected>> WithChanges<'c, I> {
    pub(super) const fn new(built: I, changes: Option<&'c dyn ChangedPages>) -> Self {
        Self {
            built,
            rest: None,
            changes,
            split_until: 0,
        }
    }

    /// The part of `all` below `end`; the rest is next.
    fn below(&mut self, all: Expected, end: u64) -> Expected {
        let bytes = end
            .min(all.virt.end_u64())
            .wrapping_sub(all.virt.start().as_u64());
        match VirtRange::try_new(all.virt.start(), bytes) {
            Ok(virt) if virt.size() < all.virt.size() => {
                self.rest = all.after(bytes);
                Expected { virt, ..all }
            }
            _ => all,
        }
    }
}

impl<I: Iterator<Item = Expected>> Iterator for WithChanges<'_, I> {
    type Item = Expected;

    fn next(&mut self) -> Option<Expected> {
        loop {
            let all = self.rest.take().or_else(|| self.built.next())?;
            let any_size = Expected { page: None, ..all };
            let start = all.virt.start().as_u64();
            let changed = self
                .changes
                .and_then(|changes| changes.next_changed(all.virt.start()))
                .filter(|changed| changed.range.overlaps(all.virt));
            let page = all.page.map_or(FRAME_SIZE, |page| page.bytes());
            let Some(changed) = changed else {
                return Some(if start < self.split_until {
                    self.below(any_size, self.split_until)
                        .keeping(all, &mut self.rest)
                } else {
                    all
                });
            };
            let first = changed.range.start().as_u64();
            if first > start {
                let whole_until = first & !(page - 1);
                return Some(if start < self.split_until {
                    let until = self.split_until.min(first);
                    self.below(any_size, until).keeping(all, &mut self.rest)
                } else if start < whole_until {
                    self.below(all, whole_until)
                } else {
                    self.below(any_size, first).keeping(all, &mut self.rest)
                });
            }
            let part = self
                .below(any_size, changed.range.end_u64())
                .keeping(all, &mut self.rest);
            self.split_until = (part.virt.last().as_u64() | (page - 1)).saturating_add(1);
            if changed.present {
                let protection = Protection {
                    access: changed.access,
                    cache: changed.cache,
                    ..part.protection
                };
                return Some(Expected { protection, ..part });
            }
        }
    }
}

impl Expected {
    /// The same, while what is left of it has the page size of `all` again.
    fn keeping(self, all: Self, rest: &mut Option<Self>) -> Self {
        if let Some(rest) = rest {
            rest.page = all.page;
        }
        self
    }
}
