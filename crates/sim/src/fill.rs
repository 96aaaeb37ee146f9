//! How a CPU walks the tables: from the root, and from every upper-level entry that it kept; and what it leaves in them.

use kspace_layout::{PageSize, PagingMode, PhysAddr, VirtAddr, VirtRange};
use kspace_paging::{Attributes, EntryRead, Format, PhysMemory, RawEntry};

use crate::machine::{SimMachine, SimTlb};
use crate::tlb::{CachedTable, Possible, caches_root};

const PRESENT: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
/// Accessed, in every entry but PAE's roots (Intel SDM vol. 3, section 5.8).
const ACCESSED: u64 = 1 << 5;
/// Dirty, in leaves.
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const GLOBAL: u64 = 1 << 8;

/// Where a walk begins, with the rights of the levels above.
#[derive(Clone, Copy)]
struct Start {
    level: u8,
    table: PhysAddr,
    write: bool,
    user: bool,
    execute: bool,
}

/// What one entry says.
enum Meaning {
    Nothing,
    Table(Start),
    Page {
        phys: PhysAddr,
        page: PageSize,
        attributes: Attributes,
    },
}

/// What a walk is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Any access that does not write, a speculative one too.
    Look,
    /// A write.
    Write,
}

impl SimMachine<'_> {
    /// Takes in all that walks to `address` can find, from the root and from each upper-level entry kept, and sets the bits in the
    /// tables that these walks set, wherever they lead. Returns whether one of them ends without a page.
    pub(crate) fn fill(&self, cpu: &mut SimTlb, address: VirtAddr, purpose: Purpose) -> bool {
        if !self.mode().contains(address) {
            return true;
        }
        let mut starts = vec![Start {
            level: self.mode().levels(),
            table: cpu.root,
            write: true,
            user: true,
            execute: true,
        }];
        let kept = cpu.tlb.tables.iter();
        let usable =
            kept.filter(|entry| entry.virt.contains(address) && entry.context == cpu.context);
        starts.extend(usable.map(|entry| Start {
            level: entry.level,
            table: entry.table,
            write: entry.write,
            user: entry.user,
            execute: entry.execute,
        }));
        let mut may_fault = false;
        for start in starts {
            may_fault |= !self.walk_from(cpu, start, address, purpose);
        }
        may_fault
    }

    /// Whether the walk ends at a page.
    fn walk_from(
        &self,
        cpu: &mut SimTlb,
        start: Start,
        address: VirtAddr,
        purpose: Purpose,
    ) -> bool {
        let mut at = start;
        loop {
            let Some((entry, raw)) = self.entry(cpu, at, address) else {
                return false;
            };
            let virt = self.span(address, at.level);
            match self.meaning(at, raw) {
                Meaning::Nothing => return false,
                Meaning::Page {
                    phys,
                    page,
                    attributes,
                } => {
                    let dirty = purpose == Purpose::Write && attributes.write;
                    self.set_bits(entry, raw, ACCESSED | if dirty { DIRTY } else { 0 });
                    let global = attributes.global && self.features().global_pages;
                    let whole = Possible {
                        virt,
                        phys,
                        page,
                        attributes,
                        releases: self.frames().releases(phys.pfn()),
                        whole: virt,
                        context: (!global).then_some(cpu.context),
                    };
                    cpu.tlb.keep_page(whole);
                    cpu.tlb.keep_page(self.small_part(whole, address));
                    return true;
                }
                Meaning::Table(next) => {
                    if !(caches_root(self.mode()) && at.level == self.mode().levels()) {
                        self.set_bits(entry, raw, ACCESSED);
                    }
                    cpu.tlb.keep_table(CachedTable {
                        virt,
                        level: next.level,
                        table: next.table,
                        write: next.write,
                        user: next.user,
                        execute: next.execute,
                        releases: self.frames().releases(next.table.pfn()),
                        context: cpu.context,
                    });
                    at = next;
                }
            }
        }
    }

    /// The entry of a table that translates `address`, and what the CPU reads there.
    fn entry(&self, cpu: &SimTlb, at: Start, address: VirtAddr) -> Option<(PhysAddr, u64)> {
        let index = self.mode().index(address, at.level);
        let entry = PhysAddr::new(at.table.as_u64() + index * self.mode().entry_bytes());
        let raw = if caches_root(self.mode()) && at.level == self.mode().levels() {
            Some(cpu.tlb.root[index as usize])
        } else {
            self.read(entry)
        };
        Some((entry, raw?))
    }

    /// The small entry for `address` that a CPU may make of a large page.
    fn small_part(&self, whole: Possible, address: VirtAddr) -> Possible {
        let start = address.align_down(PageSize::Size4K.bytes());
        let phys = whole.translate(start);
        Possible {
            virt: VirtRange::new(start, PageSize::Size4K.bytes()),
            phys,
            page: PageSize::Size4K,
            releases: self.frames().releases(phys.pfn()),
            ..whole
        }
    }

    /// What one entry spans at the level where a walk from the root to `address` ends, in a page or in nothing.
    pub(crate) fn granule(&self, cpu: &SimTlb, address: VirtAddr) -> VirtRange {
        let mut at = Start {
            level: self.mode().levels(),
            table: cpu.root,
            write: true,
            user: true,
            execute: true,
        };
        while let Some((_, raw)) = self.entry(cpu, at, address) {
            match self.meaning(at, raw) {
                Meaning::Table(next) => at = next,
                Meaning::Page { .. } | Meaning::Nothing => break,
            }
        }
        self.span(address, at.level)
    }

    /// Reads one entry as the architecture's tables say, independently of the code under test.
    fn meaning(&self, at: Start, raw: u64) -> Meaning {
        if raw & PRESENT == 0 {
            return Meaning::Nothing;
        }
        let limits = self.limits();
        let two_level = self.mode() == PagingMode::TwoLevel;
        let pae_root = caches_root(self.mode()) && at.level == 3;
        let no_execute = !two_level && limits.no_execute() && !pae_root && raw >> 63 != 0;
        let write = at.write && (pae_root || raw & WRITE != 0);
        let user = at.user && (pae_root || raw & USER != 0);
        let execute = at.execute && !no_execute;
        let large = raw & LARGE != 0 && !pae_root && matches!(at.level, 2 | 3);
        let address = if two_level {
            raw & 0xffff_f000
        } else {
            raw & 0xf_ffff_ffff_f000
        };
        if at.level > 1 && !large {
            return Meaning::Table(Start {
                level: at.level - 1,
                table: PhysAddr::new(address),
                write,
                user,
                execute,
            });
        }
        let Some(page) = self.mode().leaf_size(at.level) else {
            return Meaning::Nothing;
        };
        let mut start = address & !(page.bytes() - 1);
        if two_level && large {
            start |= (raw >> 13 & 0xff) << 32;
        }
        let pat = if large { raw >> 12 & 1 } else { raw >> 7 & 1 };
        let index = (raw >> 3 & 3) as u8 | (pat as u8) << 2;
        Meaning::Page {
            phys: PhysAddr::new(start),
            page,
            attributes: Attributes {
                write,
                user,
                execute,
                global: raw & GLOBAL != 0,
                cache: limits.pat().cache(index),
                // The TLB's own history does not matter here: one kept translation per meaning.
                accessed: true,
                dirty: false,
            },
        }
    }

    /// The addresses that one entry at `level` translates, around `address`.
    fn span(&self, address: VirtAddr, level: u8) -> VirtRange {
        let size = 1 << self.mode().level_shift(level);
        VirtRange::new(address.align_down(size), size)
    }

    fn read(&self, entry: PhysAddr) -> Option<u64> {
        match Format::of(self.mode()) {
            Format::TwoLevel => self.memory().read_u32(entry).map(u64::from),
            Format::Pae | Format::Long => self.memory().read_u64(entry),
        }
    }

    /// Sets bits in an entry as the CPU does: locked, and only while it is what the CPU has read.
    fn set_bits(&self, entry: PhysAddr, raw: u64, bits: u64) {
        match Format::of(self.mode()) {
            Format::TwoLevel => self.set_bits_of::<u32>(entry, raw, bits),
            Format::Pae | Format::Long => self.set_bits_of::<u64>(entry, raw, bits),
        }
    }

    /// Gives up when the entry has changed: the CPU would walk again.
    fn set_bits_of<E: RawEntry>(&self, entry: PhysAddr, raw: u64, bits: u64) {
        if raw & bits != bits
            && let Some(slots) = self.memory().entries::<E>(entry, 1)
        {
            let _ = E::compare_exchange(&slots[0], raw, raw | bits);
        }
    }
}
