//! Starting the other CPUs: INIT, SIPI, and a page of code that takes each from real mode to the kernel.
//!
//! A CPU that is started begins in real mode at a page of the first MiB. There lies, for as long as it is needed, a copy of the
//! *trampoline*, with a table of values at its end that the boot CPU fills in for one CPU at a time:
//!
//! ```text
//!   trampoline page, physical and, in the startup tables, virtual address P
//!   +0      16-bit code: GDT, protected mode
//!           32-bit code: CR4 (PAE, perhaps LA57), CR3, EFER, paging on: 64-bit mode
//!           64-bit code: stack, argument, jump to Rust at the kernel's address
//!   +0xf00  values: GDT, where to jump, CR3, CR4, stack, entry, argument
//! ```
//!
//! No mapping is ever writable and executable, and the kernel's tables never map the first MiB for execution: the *startup tables*
//! have the kernel's upper half and one page more, P, executable and read-only. A CPU leaves them with its first instructions in
//! Rust, and they are taken apart when all CPUs have.

use core::arch::global_asm;
use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering};

use kspace::cpu_entry;
use kspace::platform::CpuId;
use kspace_layout::{CpuEntryArea, PageSize, PhysAddr, VirtAddr, VirtRange};
use kspace_paging::{Editor, FrameSource, PhysMemory, Protection};

use super::boot::Handoff;
use super::memory::Window;
use super::stacks::{self, StackError};
use super::{PageFormat, apic, cpu, descriptors, per_cpu, second_cpu, shootdown};
use crate::info;
use crate::memory::{self, ZoneTables};

/// Bytes of the trampoline's page.
pub const PAGE: u64 = 4096;

/// Longest wait for a CPU to come online.
const PATIENCE_MICROSECONDS: u64 = 1_000_000;

/// Offset of [`Values`] in the page.
const VALUES: usize = 0xf00;

/// What the trampoline finds behind its code. The assembly names the fields by their offsets.
#[repr(C)]
struct Values {
    /// +00: limit and base of `gdt`, as LGDT takes them.
    gdt_limit: u16,
    gdt_base: [u16; 2],
    _pad: u16,
    /// +08: far pointer to the 32-bit code.
    jump_32: u32,
    selector_32: u32,
    /// +10: far pointer to the 64-bit code.
    jump_64: u32,
    selector_64: u32,
    /// +18: the page's own address.
    page: u32,
    /// +1c: bits to set in CR4.
    cr4: u32,
    /// +20: the startup tables.
    cr3: u64,
    /// +28
    stack: u64,
    /// +30
    entry: u64,
    /// +38: what `entry` gets.
    argument: u64,
    /// +40: null, 64-bit code, data, 32-bit code; accessed from the start, because the page is read-only.
    gdt: [u64; 4],
}

const SELECTOR_64: u32 = 0x08;
const SELECTOR_32: u32 = 0x18;
const GDT: [u64; 4] = [
    0,
    0x00af_9b00_0000_ffff,
    0x00cf_9300_0000_ffff,
    0x00cf_9b00_0000_ffff,
];

global_asm!(
    r#"
    .pushsection .rodata, "a", @progbits
    .balign 16
    .global trampoline_start
trampoline_start:
    .code16
    cli
    cld
    movw %cs, %ax
    movw %ax, %ds
    movl ({values} + 0x18), %ebx
    lgdtl {values}
    movl %cr0, %eax
    orl $1, %eax
    movl %eax, %cr0
    ljmpl *({values} + 0x08)

    .code32
    .global trampoline_32
trampoline_32:
    movw $0x10, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl %cr4, %eax
    orl ({values} + 0x1c)(%ebx), %eax
    movl %eax, %cr4
    movl ({values} + 0x20)(%ebx), %eax
    movl %eax, %cr3
    // EFER: LME and NXE.
    movl $0xc0000080, %ecx
    rdmsr
    orl $((1 << 8) | (1 << 11)), %eax
    wrmsr
    // CR0: PG, WP, PE; caches on (a CPU comes out of reset with CD and NW set).
    movl %cr0, %eax
    orl $((1 << 31) | (1 << 16) | 1), %eax
    andl $(~((1 << 30) | (1 << 29))), %eax
    movl %eax, %cr0
    ljmpl *({values} + 0x10)(%ebx)

    .code64
    .global trampoline_64
trampoline_64:
    xorl %eax, %eax
    movw %ax, %fs
    movw %ax, %gs
    // The upper half of RBX is undefined after the change of mode.
    movl %ebx, %ebx
    movq ({values} + 0x28)(%rbx), %rsp
    movq ({values} + 0x38)(%rbx), %rdi
    movq ({values} + 0x30)(%rbx), %rax
    xorl %ebp, %ebp
    call *%rax
    ud2
    .global trampoline_end
trampoline_end:
    .popsection
    "#,
    values = const VALUES,
    options(att_syntax),
);

unsafe extern "C" {
    static trampoline_start: [u8; 0];
    static trampoline_32: [u8; 0];
    static trampoline_64: [u8; 0];
    static trampoline_end: [u8; 0];
}

/// Why a CPU was not started.
#[derive(Debug)]
pub enum StartError {
    /// No RAM below 1 MiB was left for the trampoline.
    NoTrampolinePage,
    /// Its entry area could not be built.
    CpuEntry(cpu_entry::BuildError),
    /// There is no stack for it.
    Stack(StackError),
    /// The startup tables could not be built.
    Tables,
    /// An xAPIC's messages reach identifiers of 8 bits, of which the last means all CPUs.
    OutOfReach,
    /// It did not come online.
    NoAnswer,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoTrampolinePage => f.write_str("no RAM below 1 MiB for its first instructions"),
            Self::CpuEntry(error) => error.fmt(f),
            Self::Stack(error) => error.fmt(f),
            Self::Tables => f.write_str("no frames for the tables it starts on"),
            Self::OutOfReach => f.write_str("an xAPIC reaches identifiers 0 to 254 only"),
            Self::NoAnswer => {
                f.write_str("it was sent INIT and SIPI and did not come online in a second")
            }
        }
    }
}

/// How many CPUs have been started, the boot CPU among them.
static STARTED: AtomicU32 = AtomicU32::new(1);

/// How many CPUs have an entry area: those started, and those that were tried.
pub fn cpus_with_entry_area() -> u32 {
    STARTED.load(Ordering::Acquire)
}

/// Starts every processor but the one that runs, and returns how many are online then.
pub fn start_all(handoff: &'static Handoff, memory: &Window) -> u32 {
    let own = per_cpu::current().apic_id();
    let others = handoff
        .processors
        .apic_ids()
        .iter()
        .copied()
        .filter(|id| *id != own);
    if others.clone().count() == 0 {
        return 1;
    }
    let mut startup = match Startup::new(handoff, memory) {
        Ok(startup) => startup,
        Err(error) => {
            info!("smp: other CPUs stay off: {error}");
            return 1;
        }
    };
    // Every CPU that is to be started resets now; those with long mode need no pause before SIPI (Linux: `init_udelay`,
    // arch/x86/kernel/smpboot.c).
    let local = apic::local();
    others
        .clone()
        .filter(|apic_id| local.reaches(*apic_id))
        .for_each(|apic_id| local.send_init(apic_id));
    for apic_id in others {
        if let Err(error) = startup.start(apic_id) {
            info!("smp: the CPU with APIC {apic_id} stays off: {error}");
        }
    }
    startup.finish();
    per_cpu::online().count() as u32
}

/// The trampoline's page and the startup tables.
struct Startup<'a> {
    handoff: &'static Handoff,
    memory: &'a Window,
    page: PhysAddr,
    root: PhysAddr,
    tables: ZoneTables,
}

impl<'a> Startup<'a> {
    fn new(handoff: &'static Handoff, memory: &'a Window) -> Result<Self, StartError> {
        let page = handoff.trampoline.ok_or(StartError::NoTrampolinePage)?;
        let tables = memory::get().ok_or(StartError::Tables)?.tables();
        let root = tables.allocate_below_4_gib().ok_or(StartError::Tables)?;
        let startup = Self {
            handoff,
            memory,
            page,
            root,
            tables,
        };
        startup.map_page().ok_or(StartError::Tables)?;
        startup.share_upper_half().ok_or(StartError::Tables)?;
        startup.copy_code().ok_or(StartError::Tables)?;
        Ok(startup)
    }

    fn range(&self) -> Option<VirtRange> {
        VirtRange::try_new(VirtAddr::try_new(self.page.as_u64()).ok()?, PAGE).ok()
    }

    fn map_page(&self) -> Option<()> {
        let editor = self.editor()?;
        editor
            .map(
                self.range()?,
                self.page,
                Protection::KERNEL_TEXT,
                PageSize::Size4K,
            )
            .ok()
    }

    fn editor(&self) -> Option<Editor<'_, PageFormat, Window, ZoneTables>> {
        let plan = &self.handoff.plan;
        // SAFETY: the root is a frame of this value's own, and the tables under its lower half are edited only here. Its upper
        // half is shared with the kernel's tables and not edited.
        unsafe {
            Editor::new(
                plan.layout.mode(),
                self.root,
                plan.limits,
                self.memory,
                &self.tables,
            )
            .ok()
        }
    }

    fn share_upper_half(&self) -> Option<()> {
        let kernel = self.memory.entries::<u64>(self.handoff.root, 512)?;
        let startup = self.memory.entries::<u64>(self.root, 512)?;
        for (from, to) in kernel.iter().zip(startup).skip(256) {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        Some(())
    }

    /// Copies the code and fills in what is the same for every CPU.
    fn copy_code(&self) -> Option<()> {
        let target = self.memory.pointer(self.page, PAGE)?;
        let base = u32::try_from(self.page.as_u64()).ok()?;
        // SAFETY: only addresses are taken.
        let [start, code_32, code_64, end] = unsafe {
            [
                &trampoline_start,
                &trampoline_32,
                &trampoline_64,
                &trampoline_end,
            ]
            .map(|at| at.as_ptr())
        };
        let offset = |at: *const u8| (at as usize - start as usize) as u32;
        assert!(
            (offset(end) as usize) < VALUES,
            "the trampoline's code reaches its values"
        );
        // SAFETY: the code is `offset(end)` bytes of the image, and the page is reserved for it.
        unsafe { core::ptr::copy_nonoverlapping(start, target, offset(end) as usize) };
        let gdt = base + VALUES as u32 + core::mem::offset_of!(Values, gdt) as u32;
        let mode = self.handoff.plan.layout.mode();
        let values = Values {
            gdt_limit: (size_of_val(&GDT) - 1) as u16,
            gdt_base: [gdt as u16, (gdt >> 16) as u16],
            _pad: 0,
            jump_32: base + offset(code_32),
            selector_32: SELECTOR_32,
            jump_64: base + offset(code_64),
            selector_64: SELECTOR_64,
            page: base,
            cr4: cpu::startup_cr4(mode),
            cr3: self.root.as_u64(),
            stack: 0,
            entry: second_cpu::second_cpu as *const () as u64,
            argument: 0,
            gdt: GDT,
        };
        // SAFETY: the values lie in the reserved page, behind the code.
        unsafe { target.add(VALUES).cast::<Values>().write(values) };
        Some(())
    }

    fn start(&mut self, apic_id: u32) -> Result<(), StartError> {
        if !apic::local().reaches(apic_id) {
            return Err(StartError::OutOfReach);
        }
        let index = STARTED.load(Ordering::Acquire);
        let node = self.handoff.topology.node_of_apic(apic_id);
        let stack_top = stacks::make(index, node).map_err(StartError::Stack)?;
        self.build_entry_area(index)?;
        STARTED.store(index + 1, Ordering::Release);
        let values = self
            .memory
            .pointer(self.page, PAGE)
            .ok_or(StartError::Tables)?;
        // SAFETY: `copy_code` wrote the values there, and no other CPU is in the trampoline: the one before is online or was
        // given up.
        unsafe {
            let values = values.add(VALUES).cast::<Values>();
            (&raw mut (*values).stack).write_volatile(stack_top.as_u64());
            (&raw mut (*values).argument).write_volatile(u64::from(index));
        }
        let cpu = per_cpu::cpu(index).ok_or(StartError::Tables)?;
        cpu.prepare(index, apic_id);
        cpu.set_home(node);
        let id = CpuId::new(index as usize);
        shootdown::KERNEL.expect(id);
        // A SIPI may be lost; one that comes twice is ignored by a CPU that has started.
        for patience in [PATIENCE_MICROSECONDS / 100, PATIENCE_MICROSECONDS] {
            apic::local().send_startup(apic_id, (self.page.as_u64() / PAGE) as u8);
            if second_cpu::wait_for(cpu, patience) {
                return Ok(());
            }
        }
        // Back into reset, so that it does not wake up later on tables that are gone.
        apic::local().send_init(apic_id);
        // It may have come online in the last moment, before the reset took it.
        cpu.set_offline();
        shootdown::KERNEL.gone(id);
        Err(StartError::NoAnswer)
    }

    /// Frames and mappings for the CPU's descriptor tables and the stacks of its exceptions.
    fn build_entry_area(&self, index: u32) -> Result<(), StartError> {
        let plan = &self.handoff.plan;
        let area: CpuEntryArea = plan.layout.cpu_entry().ok_or(StartError::Tables)?;
        // SAFETY: these are the kernel's live tables; the entry area of this CPU is edited only here, and fresh mappings over
        // entries that were not present need no flush.
        let editor = unsafe {
            Editor::<PageFormat, _, _>::new(
                plan.layout.mode(),
                self.handoff.root,
                plan.limits,
                self.memory,
                &self.tables,
            )
        };
        let editor = editor.map_err(|_| StartError::Tables)?;
        cpu_entry::build(&editor, area, index).map_err(StartError::CpuEntry)?;
        descriptors::fill(self.handoff, index).ok_or(StartError::Tables)
    }

    /// Gives back the startup tables: every CPU that started on them has left them.
    fn finish(self) {
        let taken_apart = || {
            let editor = self.editor()?;
            let range = self.range()?;
            for token in [editor.unmap(range).ok()?, editor.purge(range).ok()?] {
                // SAFETY: no CPU has these tables in CR3: each loaded the kernel's before it came online, which dropped what
                // it had cached of them; one that never answered is held in reset by INIT.
                unsafe { token.discharged(self.memory, &self.tables) };
            }
            Some(())
        };
        if taken_apart().is_some() {
            self.tables.release(self.root);
        }
    }
}
