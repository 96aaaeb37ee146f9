//! A machine of several CPUs that share page tables, each with a hostile TLB.

use std::sync::{Mutex, MutexGuard};

use kspace_layout::{PagingMode, Pfn, PhysAddr, VirtAddr, VirtRange};
use kspace_paging::{
    Controls, EntryRead, Format, Intent, Invalidation, Limits, Operation, Page, PhysMemory,
    RawEntry, Refusal, Tlb, Walker,
};

use crate::tlb::{CachedTable, HostileTlb, Possible, Violation, caches_root};
use crate::{SimFrames, SimMemory};

/// Accessed, in every entry but PAE's roots (Intel SDM vol. 3, section 5.8).
const ACCESSED: u64 = 1 << 5;
/// Dirty, in leaves.
const DIRTY: u64 = 1 << 6;
const PRESENT: u64 = 1 << 0;

/// CPUs, memory, and page tables that all CPUs use.
pub struct SimMachine<'m> {
    memory: &'m SimMemory,
    frames: &'m SimFrames<'m>,
    mode: PagingMode,
    limits: Limits,
    root: PhysAddr,
    cpus: Mutex<Vec<HostileTlb>>,
}

impl<'m> SimMachine<'m> {
    /// A machine of `cpus` CPUs that have just loaded `root`.
    #[must_use]
    pub fn new(
        memory: &'m SimMemory,
        frames: &'m SimFrames<'m>,
        mode: PagingMode,
        limits: Limits,
        root: PhysAddr,
        cpus: usize,
    ) -> Self {
        let tlbs = (0..cpus).map(|_| HostileTlb::default()).collect();
        let machine = Self {
            memory,
            frames,
            mode,
            limits,
            root,
            cpus: Mutex::new(tlbs),
        };
        machine.load_root();
        machine
    }

    /// Lets CPU `cpu` access `address`, and returns every translation that it might use for it, the tables' own included. An empty
    /// list means that the access faults for certain.
    ///
    /// The CPU sets accessed and dirty bits in the tables, and keeps all it has seen.
    ///
    /// # Errors
    ///
    /// [`Violation`] when one of them, of this or any other CPU, reaches a frame that has been released since.
    pub fn access(
        &self,
        cpu: usize,
        address: VirtAddr,
        intent: Intent,
        controls: Controls,
    ) -> Result<Vec<Possible>, Violation> {
        if let Ok(page) = self.walker().walk(address).access(intent, controls) {
            self.mark(address, page, intent.operation == Operation::Write);
        }
        {
            let mut cpus = self.cpus();
            self.fill(&mut cpus[cpu], address);
        }
        self.check()?;
        let cpus = self.cpus();
        let covers = |page: &&Possible| page.virt.contains(address);
        Ok(cpus[cpu].pages.iter().filter(covers).copied().collect())
    }

    /// Lets every CPU take in everything that `range` maps now, as a speculating CPU may at any time.
    ///
    /// # Errors
    ///
    /// [`Violation`] as in [`access`](Self::access).
    pub fn speculate(&self, range: VirtRange) -> Result<(), Violation> {
        {
            let mut cpus = self.cpus();
            for run in self.walker().runs(range).flatten() {
                let mut at = run.virt.start();
                loop {
                    for tlb in cpus.iter_mut() {
                        self.fill(tlb, at);
                    }
                    match at.checked_add(run.page.bytes()) {
                        Ok(next) if next <= run.virt.last() => at = next,
                        _ => break,
                    }
                }
            }
        }
        self.check()
    }

    /// Looks for a CPU that could still reach a frame which has been released since.
    ///
    /// # Errors
    ///
    /// The first such [`Violation`].
    pub fn check(&self) -> Result<(), Violation> {
        for (cpu, tlb) in self.cpus().iter().enumerate() {
            for page in &tlb.pages {
                let frame = page.phys.pfn();
                if self.frames.releases(frame) != page.releases {
                    return Err(Violation {
                        cpu,
                        virt: page.virt,
                        frame,
                        table: None,
                    });
                }
            }
            for entry in &tlb.tables {
                let frame = entry.table.pfn();
                if self.frames.releases(frame) != entry.releases {
                    let table = Some(entry.level);
                    return Err(Violation {
                        cpu,
                        virt: entry.virt,
                        frame,
                        table,
                    });
                }
            }
        }
        Ok(())
    }

    /// How many translations the CPUs keep, and how many upper-level entries.
    #[must_use]
    pub fn kept(&self) -> (usize, usize) {
        let cpus = self.cpus();
        (
            cpus.iter().map(|tlb| tlb.pages.len()).sum(),
            cpus.iter().map(|tlb| tlb.tables.len()).sum(),
        )
    }

    /// A walker over the tables as they are in memory.
    #[must_use]
    pub fn walker(&self) -> Walker<'m, SimMemory> {
        Walker::new(self.mode, self.root, self.memory).with_limits(self.limits)
    }

    fn cpus(&self) -> MutexGuard<'_, Vec<HostileTlb>> {
        self.cpus.lock().expect("lock")
    }

    /// Has every CPU load the root again, which in PAE reads its four entries.
    fn load_root(&self) {
        if !caches_root(self.mode) {
            return;
        }
        let read = |index: u64| {
            let entry = PhysAddr::new(self.root.as_u64() + 8 * index);
            self.memory.read_u64(entry).expect("the root exists")
        };
        let entries = [0, 1, 2, 3].map(read);
        for tlb in self.cpus().iter_mut() {
            tlb.root = entries;
        }
    }

    /// Takes in all that walks to `address` can find, from the root and from each upper-level entry kept.
    fn fill(&self, tlb: &mut HostileTlb, address: VirtAddr) {
        if !self.mode.contains(address) {
            return;
        }
        let top = self.mode.levels();
        let everywhere = Start {
            level: top,
            table: self.root,
            write: true,
            user: true,
            execute: true,
        };
        let mut starts = vec![everywhere];
        let kept = tlb
            .tables
            .iter()
            .filter(|entry| entry.virt.contains(address));
        starts.extend(kept.map(|entry| Start {
            level: entry.level,
            table: entry.table,
            write: entry.write,
            user: entry.user,
            execute: entry.execute,
        }));
        for start in starts {
            self.walk_from(tlb, start, address);
        }
    }

    fn walk_from(&self, tlb: &mut HostileTlb, start: Start, address: VirtAddr) {
        let mut at = start;
        loop {
            let index = self.mode.index(address, at.level);
            let raw = if caches_root(self.mode) && at.level == self.mode.levels() {
                Some(tlb.root[index as usize])
            } else {
                self.read(PhysAddr::new(
                    at.table.as_u64() + index * self.mode.entry_bytes(),
                ))
            };
            let Some(raw) = raw else { return };
            let span = self.span(address, at.level);
            match self.meaning(at, raw) {
                Meaning::Nothing => return,
                Meaning::Page {
                    phys,
                    page,
                    attributes,
                } => {
                    let releases = self.frames.releases(phys.pfn());
                    tlb.keep_page(Possible {
                        virt: span,
                        phys,
                        page,
                        attributes,
                        releases,
                    });
                    return;
                }
                Meaning::Table(next) => {
                    tlb.keep_table(CachedTable {
                        virt: span,
                        level: next.level,
                        table: next.table,
                        write: next.write,
                        user: next.user,
                        execute: next.execute,
                        releases: self.frames.releases(next.table.pfn()),
                    });
                    at = next;
                }
            }
        }
    }

    /// Reads one entry as the architecture's tables say, independently of the code under test.
    fn meaning(&self, at: Start, raw: u64) -> Meaning {
        if raw & PRESENT == 0 {
            return Meaning::Nothing;
        }
        let two_level = self.mode == PagingMode::TwoLevel;
        let pae_root = caches_root(self.mode) && at.level == 3;
        let no_execute = !two_level && self.limits.no_execute() && !pae_root && raw >> 63 != 0;
        let write = at.write && (pae_root || raw & 2 != 0);
        let user = at.user && (pae_root || raw & 4 != 0);
        let execute = at.execute && !no_execute;
        let large = raw & 0x80 != 0 && !pae_root && matches!(at.level, 2 | 3);
        let address = if two_level {
            raw & 0xffff_f000
        } else {
            raw & 0xf_ffff_ffff_f000
        };
        if at.level > 1 && !large {
            let table = PhysAddr::new(address);
            return Meaning::Table(Start {
                level: at.level - 1,
                table,
                write,
                user,
                execute,
            });
        }
        let Some(page) = self.mode.leaf_size(at.level) else {
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
            attributes: kspace_paging::Attributes {
                write,
                user,
                execute,
                global: raw & 0x100 != 0,
                cache: self.limits.pat().cache(index),
                // The TLB's own history does not matter here: one kept translation per meaning.
                accessed: true,
                dirty: false,
            },
        }
    }

    /// The addresses that one entry at `level` translates, around `address`.
    fn span(&self, address: VirtAddr, level: u8) -> VirtRange {
        let size = 1 << self.mode.level_shift(level);
        VirtRange::new(address.align_down(size), size)
    }

    fn read(&self, entry: PhysAddr) -> Option<u64> {
        match Format::of(self.mode) {
            Format::TwoLevel => self.memory.read_u32(entry).map(u64::from),
            Format::Pae | Format::Long => self.memory.read_u64(entry),
        }
    }

    /// Sets accessed on the way to a page, and dirty in its leaf, as the CPU does: locked, and only while present.
    fn mark(&self, address: VirtAddr, page: Page, write: bool) {
        let walk = self.walker().walk(address);
        let leaf = walk.steps().len() - 1;
        for (index, step) in walk.steps().iter().enumerate() {
            if caches_root(self.mode) && step.level == 3 {
                continue;
            }
            let dirty = write && index == leaf && page.attributes.write;
            let bits = ACCESSED | if dirty { DIRTY } else { 0 };
            match Format::of(self.mode) {
                Format::TwoLevel => self.set_bits::<u32>(step.entry, step.raw, bits),
                Format::Pae | Format::Long => self.set_bits::<u64>(step.entry, step.raw, bits),
            }
        }
    }

    /// Gives up when the entry has changed: the CPU would walk again.
    fn set_bits<E: RawEntry>(&self, entry: PhysAddr, raw: u64, bits: u64) {
        if raw & bits != bits
            && let Some(slots) = self.memory.entries::<E>(entry, 1)
        {
            let _ = E::compare_exchange(&slots[0], raw, raw | bits);
        }
    }

    /// Whether every translation that `cpu` might use for `address` leads to `frame`, and there is one.
    ///
    /// # Errors
    ///
    /// As [`access`](Self::access), or what is wrong with the translations, in words.
    pub fn reaches(&self, cpu: usize, address: VirtAddr, frame: Pfn) -> Result<(), String> {
        let intent = Intent::kernel(Operation::Read);
        let possible = self
            .access(cpu, address, intent, Controls::NONE)
            .map_err(|violation| violation.to_string())?;
        if possible.is_empty() {
            return Err(format!("CPU {cpu} cannot read {address}"));
        }
        match possible
            .iter()
            .find(|page| page.translate(address).pfn() != frame)
        {
            None => Ok(()),
            Some(page) => Err(format!(
                "CPU {cpu} may read {address} in frame {:x} instead of {frame:x}",
                page.translate(address).pfn()
            )),
        }
    }

    /// What the tables say about an access, without any TLB.
    ///
    /// # Errors
    ///
    /// The fault that it raises.
    pub fn walk(&self, address: VirtAddr, intent: Intent) -> Result<Page, Refusal> {
        self.walker().walk(address).access(intent, Controls::KERNEL)
    }
}

impl Tlb for SimMachine<'_> {
    fn invalidate(&self, invalidation: &Invalidation) {
        for tlb in self.cpus().iter_mut() {
            tlb.invalidate(invalidation);
        }
        if matches!(invalidation, Invalidation::Everything)
            || matches!(invalidation, Invalidation::Range(stale) if stale.root)
        {
            self.load_root();
        }
    }
}

/// Where a walk begins, with the rights of the levels above.
#[derive(Clone, Copy)]
struct Start {
    level: u8,
    table: PhysAddr,
    write: bool,
    user: bool,
    execute: bool,
}

enum Meaning {
    Nothing,
    Table(Start),
    Page {
        phys: PhysAddr,
        page: kspace_layout::PageSize,
        attributes: kspace_paging::Attributes,
    },
}
