//! Is what is mapped what the layout says? Every entry of live tables held against layout, memory map and rules.
//!
//! ```text
//!   area or hole                 what must be mapped there
//!   direct map (built)           exactly the plan: addresses, page sizes, rights
//!   kernel image (built)         every section with its own rights, nothing between them
//!   CPU entry area (built)       IDT and every part of each CPU, on RAM; the guards stay unmapped
//!   fixmap (built)               the pages that the kernel says it has set
//!   vmemmap                      with a plan exactly that: where pages are, their sizes, rights, on RAM; without one nothing
//!   vmalloc                      with areas: every page of each, none that others may not use, nothing between them; without them nothing
//!   another built area           no writable and executable page, no user page
//!   anything else                nothing: user half, reserved areas, holes
//! ```
//!
//! What is expected is derived from the layout and the memory map, not from what any builder did; and what is found is
//! read by the walker from the tables that the CPU uses. Pages that were changed on purpose since ([`ChangedPages`]) are expected as they were
//! changed. The first difference ends the check.

mod changed;
mod compare;
mod difference;
mod expect;
mod on_demand;
mod rows;

use core::fmt;

use kspace_frames::MemoryMap;
use kspace_frames::zone::VmemmapPlan;
use kspace_layout::{Area, AreaKind, AreaState, Layout, Place, VirtRange};
use kspace_paging::{EntryRead, Limits, Walker};

use crate::direct_map::Plan;
use crate::fixmap::FixedPages;
use crate::image::ImageMap;

pub use changed::ChangedPages;
pub use difference::{Aspect, Difference, Whereabouts};
pub use expect::{Expected, FixedPage};
pub use on_demand::OnDemand;
pub use rows::verify_block;

use changed::WithChanges;
use compare::{Tally, compare};

/// What a kernel says it has built. The rest follows from the layout.
#[derive(Clone, Copy, Debug)]
pub struct Claims<'a> {
    /// The layout that the kernel has built.
    pub layout: &'a Layout,
    /// The memory map: what is RAM.
    pub map: &'a MemoryMap,
    /// What the machine can do, for the page sizes of the direct map.
    pub limits: Limits,
    /// How many CPUs have an entry area, from CPU 0 on.
    pub cpus: u32,
    /// The pages of the fixmap that are set.
    pub fixed: &'a dyn FixedPages,
    /// What is backed of area vmemmap, once it is built.
    pub vmemmap: Option<VmemmapPlan<'a>>,
    /// What is mapped in area vmalloc, once it is used. Nobody makes or frees areas meanwhile.
    pub areas: Option<&'a dyn OnDemand>,
    /// Which pages were changed since they were built. Nobody changes any meanwhile.
    pub changes: Option<&'a dyn ChangedPages>,
}

impl<'a> Claims<'a> {
    /// Only what every kernel has: direct map and image. The rest is added by the fields.
    #[must_use]
    pub const fn new(layout: &'a Layout, map: &'a MemoryMap, limits: Limits) -> Self {
        Self {
            layout,
            map,
            limits,
            cpus: 0,
            fixed: &[],
            vmemmap: None,
            areas: None,
            changes: None,
        }
    }

    /// Whether this kernel maps anything in an area: vmemmap when there is a plan for it, vmalloc when there are areas, the others as
    /// the layout says.
    fn is_built(&self, area: Area) -> bool {
        match area.kind() {
            AreaKind::Vmemmap => self.vmemmap.is_some(),
            AreaKind::Vmalloc => self.areas.is_some(),
            _ => area.state() == AreaState::Built,
        }
    }
}

/// Holds the tables that `walker` reads against `claims`.
///
/// # Errors
///
/// The first [`Difference`], with both values.
pub fn verify<M: EntryRead + ?Sized>(
    walker: &Walker<'_, M>,
    claims: &Claims<'_>,
) -> Result<Verified, Difference> {
    let image = claims
        .layout
        .image()
        .map(ImageMap::try_new)
        .transpose()
        .map_err(Difference::Image)?;
    let mut check = Check {
        walker: *walker,
        claims: *claims,
        image,
        verified: Verified::default(),
    };
    for place in claims.layout.places() {
        check.place(place)?;
    }
    check.verified.no_execute = compare::can_forbid_execution(claims);
    check.verified.rows = verify_block(walker, claims)?;
    Ok(check.verified)
}

/// What was checked. All of it was as expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Verified {
    /// Leaf entries: pages of any size.
    pub pages: u64,
    /// Runs of equal pages.
    pub runs: u64,
    /// Areas with mappings.
    pub areas: u64,
    /// Areas that are only reserved, and empty.
    pub reserved: u64,
    /// Holes between areas, all empty.
    pub holes: u64,
    /// Rows of the printed block.
    pub rows: u64,
    /// Whether the machine can forbid execution at all. Where it cannot, every page is executable.
    pub no_execute: bool,
}

impl fmt::Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rule = if self.no_execute {
            "no page is writable and executable"
        } else {
            "the machine cannot forbid execution"
        };
        write!(
            f,
            "verify: {} pages in {} runs of {} areas are as the layout says, {} reserved areas and {} holes are empty, \
             {rule}, {} rows of the block are true",
            self.pages, self.runs, self.areas, self.reserved, self.holes, self.rows
        )
    }
}

struct Check<'a, 'm, M: ?Sized> {
    walker: Walker<'m, M>,
    claims: Claims<'a>,
    image: Option<ImageMap>,
    verified: Verified,
}

impl<M: EntryRead + ?Sized> Check<'_, '_, M> {
    fn place(&mut self, place: Place) -> Result<(), Difference> {
        match place {
            Place::Hole(hole) => {
                self.verified.holes += 1;
                self.nothing(hole.range())
            }
            Place::Area { area, .. } if self.claims.is_built(area) => {
                self.verified.areas += 1;
                self.area(area)
            }
            Place::Area { area, .. } => {
                self.verified.reserved += 1;
                self.nothing(area.range())
            }
            Place::OutsideMode(_) => Ok(()),
        }
    }

    fn area(&mut self, area: Area) -> Result<(), Difference> {
        let Claims {
            layout,
            map,
            limits,
            cpus,
            fixed,
            vmemmap,
            areas,
            changes,
        } = self.claims;
        let (range, image) = (area.range(), self.image);
        match area.kind() {
            AreaKind::DirectMap => {
                let mut plan = Plan::for_layout(layout, map, limits);
                if let Some(image) = &image {
                    plan = plan.with_image(image);
                }
                self.exactly(
                    range,
                    WithChanges::new(expect::direct_map(plan, range), changes),
                )
            }
            AreaKind::KernelImage => {
                let built = image.iter().flat_map(expect::image);
                self.exactly(range, WithChanges::new(built, changes))
            }
            AreaKind::CpuEntry => {
                let entry = layout.cpu_entry();
                self.exactly(
                    range,
                    entry
                        .into_iter()
                        .flat_map(|area| expect::cpu_entry(area, cpus)),
                )
            }
            AreaKind::Fixmap => self.exactly(range, expect::fixed(fixed, range)),
            AreaKind::Vmemmap => {
                let expected = vmemmap
                    .into_iter()
                    .flat_map(|plan| expect::vmemmap(plan, range));
                self.exactly(range, expected)
            }
            AreaKind::Vmalloc => match areas {
                Some(areas) => self.on_demand(range, areas),
                None => self.nothing(range),
            },
            _ => self.rules_only(range),
        }
    }

    fn nothing(&mut self, range: VirtRange) -> Result<(), Difference> {
        self.exactly(range, core::iter::empty())
    }

    fn exactly(
        &mut self,
        range: VirtRange,
        expected: impl Iterator<Item = Expected>,
    ) -> Result<(), Difference> {
        let tally = compare(&self.walker, &self.claims, range, expected)?;
        self.count(tally);
        Ok(())
    }

    fn rules_only(&mut self, range: VirtRange) -> Result<(), Difference> {
        let tally = compare::rules_only(&self.walker, &self.claims, range)?;
        self.count(tally);
        Ok(())
    }

    fn count(&mut self, tally: Tally) {
        self.verified.pages += tally.pages;
        self.verified.runs += tally.runs;
    }
}
