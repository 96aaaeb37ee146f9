//! A machine of several CPUs, each with a hostile TLB and a root of its own to load.

use std::sync::{Mutex, MutexGuard, PoisonError};

use kspace::platform::{LocalFlush, TlbFeatures};
use kspace_layout::{PagingMode, Pfn, PhysAddr, PhysRange, VirtAddr, VirtRange};
use kspace_paging::{
    CacheType, Controls, EntryRead, Intent, Invalidation, Limits, Operation, Page, Refusal, Tlb,
    Walker,
};

use crate::fill::Purpose;
use crate::tlb::{HostileTlb, Possible, Seen, Violation, caches_root};
use crate::{SimFrames, SimMemory};

/// CPUs, memory, and page tables that all CPUs use until they load others.
pub struct SimMachine<'m> {
    memory: &'m SimMemory,
    frames: &'m SimFrames<'m>,
    mode: PagingMode,
    limits: Limits,
    features: TlbFeatures,
    root: PhysAddr,
    cpus: Mutex<Vec<SimTlb>>,
    /// Memory of which the caches were emptied.
    emptied: Mutex<Vec<PhysRange>>,
}

/// What a CPU does with the translations it can get.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Use {
    /// Any access, at any time.
    Everything,
    /// None, but it may still walk the tables, and set bits in them.
    WalksOnly,
    /// Nothing: it is off, or uses tables that are not looked at here.
    Nothing,
}

/// One CPU, as far as translation goes.
#[derive(Debug)]
pub(crate) struct SimTlb {
    pub(crate) tlb: HostileTlb,
    pub(crate) root: PhysAddr,
    /// The PCID that is current; 0 without PCIDs.
    pub(crate) context: u16,
    uses: Use,
    /// All that it was told to invalidate.
    performed: Vec<LocalFlush>,
}

impl<'m> SimMachine<'m> {
    /// A machine of `cpus` CPUs that have just loaded `root`. It has global pages, but neither PCIDs nor `INVPCID`.
    #[must_use]
    pub fn new(
        memory: &'m SimMemory,
        frames: &'m SimFrames<'m>,
        mode: PagingMode,
        limits: Limits,
        root: PhysAddr,
        cpus: usize,
    ) -> Self {
        let cpu = |_| SimTlb {
            tlb: HostileTlb::default(),
            root,
            context: 0,
            uses: Use::Everything,
            performed: Vec::new(),
        };
        let machine = Self {
            memory,
            frames,
            mode,
            limits,
            features: TlbFeatures::plain(mode).with_global_pages(),
            root,
            cpus: Mutex::new((0..cpus).map(cpu).collect()),
            emptied: Mutex::default(),
        };
        machine.read_roots();
        machine
    }

    /// The same machine with other features.
    ///
    /// # Panics
    ///
    /// When they are those of another mode.
    #[must_use]
    pub fn with_features(self, features: TlbFeatures) -> Self {
        assert_eq!(features.mode, self.mode, "features of another mode");
        Self { features, ..self }
    }

    /// What its TLBs have.
    #[must_use]
    pub const fn features(&self) -> TlbFeatures {
        self.features
    }

    pub(crate) const fn mode(&self) -> PagingMode {
        self.mode
    }

    pub(crate) const fn limits(&self) -> Limits {
        self.limits
    }

    pub(crate) const fn memory(&self) -> &'m SimMemory {
        self.memory
    }

    pub(crate) const fn frames(&self) -> &'m SimFrames<'m> {
        self.frames
    }

    /// Lets CPU `cpu` access `address`, and returns all that might come of it: every translation that it might use, the tables' own
    /// included, and whether it might find none. Without any, the access faults for certain.
    ///
    /// The CPU sets accessed and dirty bits in the tables, and keeps all it has seen.
    ///
    /// # Errors
    ///
    /// [`Violation`] when one of them, of this or any other CPU, reaches a frame that has been released since.
    ///
    /// # Panics
    ///
    /// When the CPU does not use [everything](Use::Everything).
    pub fn access(
        &self,
        cpu: usize,
        address: VirtAddr,
        intent: Intent,
        controls: Controls,
    ) -> Result<Seen, Violation> {
        let may_fault = {
            let mut cpus = self.cpus();
            let this = &mut cpus[cpu];
            assert_eq!(
                this.uses,
                Use::Everything,
                "CPU {cpu} may not access {address} now"
            );
            let root = Walker::new(self.mode, this.root, self.memory).with_limits(self.limits);
            let allowed = root.walk(address).access(intent, controls).is_ok();
            let purpose = match intent.operation {
                Operation::Write if allowed => Purpose::Write,
                _ => Purpose::Look,
            };
            self.fill(this, address, purpose)
        };
        self.check()?;
        let cpus = self.cpus();
        let this = &cpus[cpu];
        let covers = |page: &&Possible| page.virt.contains(address) && page.usable_in(this.context);
        Ok(Seen {
            pages: this.tlb.pages.iter().filter(covers).copied().collect(),
            may_fault,
        })
    }

    /// Lets every CPU take in everything that its tables map in `range` now, as a speculating CPU may at any time.
    ///
    /// # Errors
    ///
    /// [`Violation`] as in [`access`](Self::access).
    pub fn speculate(&self, range: VirtRange) -> Result<(), Violation> {
        {
            let mut cpus = self.cpus();
            for cpu in cpus.iter_mut().filter(|cpu| cpu.uses != Use::Nothing) {
                let walker = Walker::new(self.mode, cpu.root, self.memory).with_limits(self.limits);
                for run in walker.runs(range).flatten() {
                    let mut at = run.virt.start();
                    loop {
                        self.fill(cpu, at, Purpose::Look);
                        match at.checked_add(run.page.bytes()) {
                            Ok(next) if next <= run.virt.last() => at = next,
                            _ => break,
                        }
                    }
                }
            }
        }
        self.check()
    }

    /// As [`speculate`](Self::speculate), for one address; and does not [`check`](Self::check).
    pub fn speculate_at(&self, address: VirtAddr) {
        for cpu in self.cpus().iter_mut() {
            if cpu.uses != Use::Nothing {
                self.fill(cpu, address, Purpose::Look);
            }
        }
    }

    /// Looks for a CPU that could still reach a frame which has been released since, in whatever way it [uses](Use) what it has.
    ///
    /// # Errors
    ///
    /// The first such [`Violation`].
    pub fn check(&self) -> Result<(), Violation> {
        for (cpu, this) in self.cpus().iter().enumerate() {
            let pages = this.tlb.pages.iter();
            let usable =
                pages.filter(|page| this.uses == Use::Everything && page.usable_in(this.context));
            for page in usable {
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
            let tables = this.tlb.tables.iter();
            let usable =
                tables.filter(|table| this.uses != Use::Nothing && table.context == this.context);
            for entry in usable {
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
            cpus.iter().map(|cpu| cpu.tlb.pages.len()).sum(),
            cpus.iter().map(|cpu| cpu.tlb.tables.len()).sum(),
        )
    }

    /// Whether a CPU may use a translation of `address` that allows writing.
    #[must_use]
    pub fn may_write(&self, cpu: usize, address: VirtAddr) -> bool {
        let cpus = self.cpus();
        let this = &cpus[cpu];
        let mut pages = this.tlb.pages.iter();
        pages.any(|page| {
            page.virt.contains(address) && page.usable_in(this.context) && page.attributes.write
        })
    }

    /// Empties all caches of a range of memory.
    ///
    /// # Panics
    ///
    /// When a CPU may use a translation that lets it cache the memory again: whoever empties the caches wants it out of them.
    pub fn empty_caches(&self, range: PhysRange) {
        for (cpu, this) in self.cpus().iter().enumerate() {
            for page in this.tlb.pages.iter() {
                let frames = PhysRange::new(page.phys, page.virt.size());
                let cached = matches!(
                    page.attributes.cache,
                    CacheType::WriteBack | CacheType::WriteThrough | CacheType::WriteProtected
                );
                assert!(
                    !cached || !frames.overlaps(range) || !page.usable_in(this.context),
                    "CPU {cpu} may read {range} into its caches again by {}",
                    page.virt
                );
            }
        }
        self.emptied.lock().expect("lock").push(range);
    }

    /// The memory of which the caches were emptied since this was last asked.
    #[must_use]
    pub fn emptied(&self) -> Vec<PhysRange> {
        let mut emptied = self.emptied.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut emptied)
    }

    /// Says what a CPU does with the translations it can get from now on.
    pub fn set_use(&self, cpu: usize, uses: Use) {
        self.cpus()[cpu].uses = uses;
    }

    /// What a CPU does with the translations it can get.
    #[must_use]
    pub fn uses(&self, cpu: usize) -> Use {
        self.cpus()[cpu].uses
    }

    /// Has a CPU execute an invalidation, and forget what the manual says it does, and not one entry more.
    ///
    /// # Panics
    ///
    /// When the machine does not have the instruction.
    pub fn perform(&self, cpu: usize, flush: LocalFlush) {
        let features = self.features;
        let mut cpus = self.cpus();
        let this = &mut cpus[cpu];
        this.performed.push(flush);
        match flush {
            LocalFlush::Page(address) => {
                let granule = self.granule(this, address);
                this.tlb.forget_page(address, granule, this.context);
            }
            LocalFlush::LoadRoot => {
                this.tlb.forget_context(this.context);
                self.read_root(this);
            }
            LocalFlush::ToggleGlobal => {
                let has_bit = features.global_pages || features.contexts;
                assert!(has_bit, "CPU {cpu}: CR4 has no PGE");
                this.tlb.forget_everything();
            }
            LocalFlush::EveryContext => {
                assert!(features.invpcid, "CPU {cpu}: there is no INVPCID");
                this.tlb.forget_all_but_global();
            }
            LocalFlush::Everything => {
                assert!(features.invpcid, "CPU {cpu}: there is no INVPCID");
                this.tlb.forget_everything();
            }
        }
    }

    /// What a CPU was told to invalidate since this was last asked.
    #[must_use]
    pub fn performed(&self, cpu: usize) -> Vec<LocalFlush> {
        std::mem::take(&mut self.cpus()[cpu].performed)
    }

    /// Has a CPU load a root, under a PCID if the machine has them. With `keep`, what it holds under that PCID stays.
    ///
    /// # Panics
    ///
    /// When the machine has no PCIDs and one is asked for.
    pub fn load_root(&self, cpu: usize, root: PhysAddr, context: u16, keep: bool) {
        assert!(
            self.features.contexts || (context == 0 && !keep),
            "CPU {cpu}: CR4.PCIDE is clear"
        );
        let mut cpus = self.cpus();
        let this = &mut cpus[cpu];
        this.root = root;
        this.context = context;
        if !keep {
            this.tlb.forget_context(context);
        }
        self.read_root(this);
    }

    /// The same number for the same state of all TLBs.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.cpus().iter().fold(0, |digest: u64, cpu| {
            let own = cpu.tlb.digest() ^ u64::from(cpu.context) << 8 ^ cpu.uses as u64;
            digest.wrapping_mul(0x0100_0000_01b3).wrapping_add(own)
        })
    }

    /// A walker over the first root's tables as they are in memory.
    #[must_use]
    pub fn walker(&self) -> Walker<'m, SimMemory> {
        Walker::new(self.mode, self.root, self.memory).with_limits(self.limits)
    }

    fn cpus(&self) -> MutexGuard<'_, Vec<SimTlb>> {
        self.cpus.lock().expect("lock")
    }

    fn read_roots(&self) {
        for cpu in self.cpus().iter_mut() {
            self.read_root(cpu);
        }
    }

    /// Has a CPU read PAE's four root entries.
    fn read_root(&self, cpu: &mut SimTlb) {
        if caches_root(self.mode) {
            cpu.tlb.root = [0, 1, 2, 3].map(|index| {
                let entry = PhysAddr::new(cpu.root.as_u64() + 8 * index);
                self.memory.read_u64(entry).expect("the root exists")
            });
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
            .map_err(|violation| violation.to_string())?
            .pages;
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

/// All CPUs at once, and no more than is named: what a flush must achieve, however it does it.
// SAFETY: every simulated TLB has dropped what is named when the loop is done.
unsafe impl Tlb for SimMachine<'_> {
    fn invalidate(&self, invalidation: &Invalidation) {
        for cpu in self.cpus().iter_mut() {
            cpu.tlb.invalidate(invalidation);
        }
        if matches!(invalidation, Invalidation::Everything)
            || matches!(invalidation, Invalidation::Range(stale) if stale.root)
        {
            self.read_roots();
        }
    }
}
