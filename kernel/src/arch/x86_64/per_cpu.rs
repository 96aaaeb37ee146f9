//! Data of each CPU, found through GS.
//!
//! ```text
//!   GS base --> CpuData of the CPU that runs     [CPUS[0]][CPUS[1]][CPUS[2]]...
//!               +0  address of itself: one load gives a reference
//! ```
//!
//! The array is in `.bss`: there is no allocator yet, and a CPU that panics must find its own data without one. Every field is
//! an atomic, because other CPUs read them: for the log, for panics, for benches.

use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};

use kspace_frames::zone::NodeId;

use x86_64::registers::model_specific::Msr;

use crate::acpi::MAX_CPUS;

/// `IA32_GS_BASE` (Intel SDM vol. 4, table 2-2).
const GS_BASE_MSR: u32 = 0xc000_0101;

/// One CPU's data. A cache line pair of its own, so that CPUs do not share lines.
#[repr(C, align(128))]
pub struct CpuData {
    this: AtomicPtr<CpuData>,
    index: AtomicU32,
    apic_id: AtomicU32,
    home: AtomicU32,
    online: AtomicBool,
    stopped: AtomicBool,
    /// Reasons why this CPU must not wait for others: locks held, interrupts being handled.
    pub atomic_depth: AtomicU32,
    /// The last job that this CPU has run.
    pub round: AtomicU64,
    /// Yield points passed while they were on.
    pub yield_points: AtomicU64,
    /// Timer interrupts taken.
    pub timer_interrupts: AtomicU64,
    /// Shootdown interrupts taken.
    pub shootdown_interrupts: AtomicU64,
    /// How many CPUs wait for this one to give back the frames that it keeps.
    pub drains_wanted: AtomicU32,
    /// Interrupts taken to give frames back.
    pub drain_interrupts: AtomicU64,
    /// Interrupts that had gone away before they were delivered.
    pub spurious_interrupts: AtomicU64,
}

impl CpuData {
    const fn new() -> Self {
        Self {
            this: AtomicPtr::new(core::ptr::null_mut()),
            index: AtomicU32::new(0),
            apic_id: AtomicU32::new(0),
            home: AtomicU32::new(0),
            online: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            atomic_depth: AtomicU32::new(0),
            round: AtomicU64::new(0),
            yield_points: AtomicU64::new(0),
            timer_interrupts: AtomicU64::new(0),
            shootdown_interrupts: AtomicU64::new(0),
            spurious_interrupts: AtomicU64::new(0),
            drains_wanted: AtomicU32::new(0),
            drain_interrupts: AtomicU64::new(0),
        }
    }

    /// Which CPU this is, 0 being the boot CPU.
    pub fn index(&self) -> u32 {
        self.index.load(Ordering::Relaxed)
    }

    /// The identifier of its local APIC.
    pub fn apic_id(&self) -> u32 {
        self.apic_id.load(Ordering::Relaxed)
    }

    /// The node whose memory is nearest to it.
    #[inline]
    pub fn home(&self) -> NodeId {
        NodeId::try_new(self.home.load(Ordering::Relaxed)).unwrap_or(NodeId::ZERO)
    }

    /// Says which node it is near to.
    pub fn set_home(&self, node: NodeId) {
        self.home.store(node.index() as u32, Ordering::Relaxed);
    }

    /// Says which processor this CPU will be, before it is started.
    pub fn prepare(&self, index: u32, apic_id: u32) {
        self.index.store(index, Ordering::Relaxed);
        self.apic_id.store(apic_id, Ordering::Relaxed);
    }

    /// Whether it takes part: it runs on the kernel's tables and answers interrupts.
    pub fn is_online(&self) -> bool {
        self.online.load(Ordering::Acquire)
    }

    /// Says that it takes part from now on.
    pub fn set_online(&self) {
        self.online.store(true, Ordering::Release);
    }

    /// Says that it takes no part any more: it has been reset.
    pub fn set_offline(&self) {
        self.online.store(false, Ordering::Release);
    }

    /// Whether it has halted for good, in a panic.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Says that it has halted for good.
    pub fn set_stopped(&self) {
        self.stopped.store(true, Ordering::Release);
    }
}

static CPUS: [CpuData; MAX_CPUS] = [const { CpuData::new() }; MAX_CPUS];

/// The data of CPU `index`; `None` beyond [`MAX_CPUS`].
pub fn cpu(index: u32) -> Option<&'static CpuData> {
    CPUS.get(usize::try_from(index).ok()?)
}

/// The CPUs that take part.
pub fn online() -> impl Iterator<Item = &'static CpuData> {
    CPUS.iter().filter(|cpu| cpu.is_online())
}

/// Makes CPU `index` the one that runs here.
///
/// # Panics
///
/// When `index` is [`MAX_CPUS`] or more: processors beyond are not started.
pub fn set_current(index: u32, apic_id: u32) -> &'static CpuData {
    let data = &CPUS[index as usize];
    data.prepare(index, apic_id);
    data.this
        .store((&raw const *data).cast_mut(), Ordering::Relaxed);
    // SAFETY: the kernel uses GS for nothing else, and the data is static.
    unsafe { Msr::new(GS_BASE_MSR).write(&raw const *data as u64) };
    CURRENT_SET.store(true, Ordering::Release);
    data
}

static CURRENT_SET: AtomicBool = AtomicBool::new(false);

/// The data of the CPU that runs here; `None` before the boot CPU has set its own. Further CPUs set theirs before they run
/// anything that asks.
#[inline]
pub fn try_current() -> Option<&'static CpuData> {
    CURRENT_SET.load(Ordering::Acquire).then(current)
}

/// The data of the CPU that runs here, which must have been set.
#[inline]
pub fn current() -> &'static CpuData {
    let this: *const CpuData;
    // SAFETY: GS base is the address of a static `CpuData`, whose first field is its own address.
    unsafe {
        asm!("mov {}, gs:[0]", out(reg) this, options(nostack, readonly, preserves_flags, pure));
        &*this
    }
}

/// A 32-bit field of the data of the CPU that runs here, in one instruction.
macro_rules! current_field {
    ($field:ident) => {{
        let value: u32;
        // SAFETY: GS base is the address of a static `CpuData`. The field is an atomic of 32 bits, which an aligned load reads whole.
        unsafe {
            asm!("mov {:e}, gs:[{}]", out(reg) value, const core::mem::offset_of!(CpuData, $field),
                options(nostack, readonly, preserves_flags, pure));
        }
        value
    }};
}

/// The number of the CPU that runs here, which must have been set.
#[inline(always)]
pub fn current_index() -> u32 {
    current_field!(index)
}

/// The node whose memory is nearest to the CPU that runs here, which must have been set.
#[inline(always)]
pub fn current_home() -> NodeId {
    NodeId::try_new(current_field!(home)).unwrap_or(NodeId::ZERO)
}

/// The reasons why the CPU that runs here, which must have been set, must not wait for others.
#[inline(always)]
pub fn current_atomic_depth() -> u32 {
    current_field!(atomic_depth)
}
