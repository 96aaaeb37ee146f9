//! The local APIC: the CPU's own interrupt controller, through which CPUs interrupt each other, and its timer.
//!
//! It comes in two forms with the same registers (Intel SDM vol. 3, chapter 12). xAPIC has them in a page of memory; x2APIC has them
//! in MSRs, has wider identifiers, and needs no memory access that a hypervisor must emulate.
//!
//! ```text
//!                    xAPIC                                x2APIC
//!   register R       page + R, 32 bits                    MSR 800h + R / 16
//!   send a message   destination to +310, then +300,      one write of 64 bits to MSR 830h, after fences
//!                    then wait until it is accepted
//!   its identifier   bits 24 to 31 of +20                 all of MSR 802h
//! ```
//!
//! [`LocalApic`] says which register gets which value; [`Registers`] does it. So the form that QEMU's emulated CPU lacks is tested on
//! the host, by what it would write.

/// `IA32_APIC_BASE` (Intel SDM vol. 4, table 2-2).
const BASE_MSR: u32 = 0x1b;
const BASE_X2APIC: u64 = 1 << 10;
const BASE_ENABLE: u64 = 1 << 11;

/// `IA32_TSC_DEADLINE`.
const DEADLINE_MSR: u32 = 0x6e0;

/// Registers by their offset in the xAPIC's page (Intel SDM vol. 3, tables 12-1 and 12-6).
#[derive(Clone, Copy)]
#[repr(u32)]
enum Register {
    Id = 0x20,
    EndOfInterrupt = 0xb0,
    SpuriousVector = 0xf0,
    ErrorStatus = 0x280,
    CommandLow = 0x300,
    CommandHigh = 0x310,
    TimerVector = 0x320,
    TimerInitialCount = 0x380,
    TimerCurrentCount = 0x390,
    TimerDivide = 0x3e0,
}

const SOFTWARE_ENABLE: u32 = 0x100;

const COMMAND_FIXED: u32 = 0;
const COMMAND_NMI: u32 = 0b100 << 8;
const COMMAND_INIT: u32 = 0b101 << 8;
const COMMAND_STARTUP: u32 = 0b110 << 8;
const COMMAND_ASSERT: u32 = 1 << 14;
const COMMAND_PENDING: u32 = 1 << 12;

const TIMER_MASKED: u32 = 1 << 16;
const TIMER_DEADLINE: u32 = 0b10 << 17;
/// The timer counts at its input clock (Intel SDM vol. 3, figure 12-10).
const DIVIDE_BY_1: u32 = 0b1011;

/// The way to a local APIC's registers.
pub trait Registers {
    /// Reads 32 bits of the xAPIC's page.
    fn read_memory(&self, offset: u32) -> u32;
    /// Writes 32 bits of the xAPIC's page.
    fn write_memory(&self, offset: u32, value: u32);
    /// Reads an MSR.
    fn read_msr(&self, number: u32) -> u64;
    /// Writes an MSR.
    fn write_msr(&self, number: u32, value: u64);
    /// Makes all that was stored before visible before what follows: `MFENCE; LFENCE`.
    fn fence(&self);
    /// Runs `action` with interrupts off.
    fn without_interrupts(&self, action: impl FnOnce());
}

/// Where the registers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// In memory.
    XApic,
    /// In MSRs.
    X2Apic,
}

impl core::fmt::Display for Form {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::XApic => "xAPIC (x2APIC not present)",
            Self::X2Apic => "x2APIC",
        })
    }
}

/// The vectors that a local APIC delivers by itself.
#[derive(Clone, Copy, Debug)]
pub struct Vectors {
    /// The timer's.
    pub timer: u8,
    /// The one for interrupts that have gone away.
    pub spurious: u8,
}

/// The local APIC of the CPU that runs.
#[derive(Clone, Copy, Debug)]
pub struct LocalApic<R> {
    registers: R,
    form: Form,
    vectors: Vectors,
}

impl<R: Registers> LocalApic<R> {
    /// The local APIC in this form.
    pub const fn new(registers: R, form: Form, vectors: Vectors) -> Self {
        Self {
            registers,
            form,
            vectors,
        }
    }

    /// Turns it on, with the timer stopped. Once on each CPU.
    pub fn enable(&self) {
        let value = self.registers.read_msr(BASE_MSR) | BASE_ENABLE;
        self.registers.write_msr(BASE_MSR, value);
        if self.form == Form::X2Apic {
            // From off to x2APIC leads only through xAPIC (Intel SDM vol. 3, figure 12-27).
            self.registers.write_msr(BASE_MSR, value | BASE_X2APIC);
        }
        self.write(
            Register::SpuriousVector,
            SOFTWARE_ENABLE | u32::from(self.vectors.spurious),
        );
        self.write(
            Register::TimerVector,
            TIMER_MASKED | u32::from(self.vectors.timer),
        );
    }

    /// Its identifier.
    pub fn id(&self) -> u32 {
        match self.form {
            Form::XApic => self.read(Register::Id) >> 24,
            Form::X2Apic => self.read(Register::Id),
        }
    }

    /// Whether a message can be addressed to the CPU with this identifier: an xAPIC's destination has 8 bits, and all of them set
    /// mean every CPU.
    pub const fn reaches(&self, apic_id: u32) -> bool {
        match self.form {
            Form::XApic => apic_id < 0xff,
            Form::X2Apic => apic_id != u32::MAX,
        }
    }

    /// Says that the interrupt being handled is done.
    #[inline]
    pub fn end_of_interrupt(&self) {
        self.write(Register::EndOfInterrupt, 0);
    }

    /// Sends `vector` to the CPU with this identifier.
    #[inline]
    pub fn send(&self, apic_id: u32, vector: u8) {
        self.command(apic_id, COMMAND_FIXED | COMMAND_ASSERT | u32::from(vector));
    }

    /// Sends an NMI.
    pub fn send_nmi(&self, apic_id: u32) {
        self.command(apic_id, COMMAND_NMI | COMMAND_ASSERT);
    }

    /// Sends INIT: the CPU resets and waits.
    pub fn send_init(&self, apic_id: u32) {
        self.write(Register::ErrorStatus, 0);
        self.command(apic_id, COMMAND_INIT | COMMAND_ASSERT);
    }

    /// Sends SIPI: the CPU starts in real mode at page `page` of the first MiB.
    pub fn send_startup(&self, apic_id: u32, page: u8) {
        self.write(Register::ErrorStatus, 0);
        self.command(apic_id, COMMAND_STARTUP | COMMAND_ASSERT | u32::from(page));
    }

    /// Makes the timer count down once from `count` and then interrupt.
    pub fn start_timer(&self, count: u32) {
        self.write(Register::TimerDivide, DIVIDE_BY_1);
        self.write(Register::TimerVector, u32::from(self.vectors.timer));
        self.write(Register::TimerInitialCount, count);
    }

    /// Starts the timer without an interrupt, to measure its rate.
    pub fn start_timer_silently(&self) {
        self.write(Register::TimerDivide, DIVIDE_BY_1);
        self.write(
            Register::TimerVector,
            TIMER_MASKED | u32::from(self.vectors.timer),
        );
        self.write(Register::TimerInitialCount, u32::MAX);
    }

    /// How far the timer has counted since [`start_timer_silently`](Self::start_timer_silently).
    pub fn timer_passed(&self) -> u32 {
        u32::MAX - self.read(Register::TimerCurrentCount)
    }

    /// Stops the timer.
    pub fn stop_timer(&self) {
        self.write(
            Register::TimerVector,
            TIMER_MASKED | u32::from(self.vectors.timer),
        );
        self.write(Register::TimerInitialCount, 0);
    }

    /// Makes the timer interrupt when the time-stamp counter reaches `ticks`, on a CPU that reports TSC-deadline (CPUID 1, ECX
    /// bit 24).
    pub fn start_deadline(&self, ticks: u64) {
        self.write(
            Register::TimerVector,
            TIMER_DEADLINE | u32::from(self.vectors.timer),
        );
        // An xAPIC's register is memory: the store must be done before the MSR is written (Intel SDM vol. 3, section 12.5.4.1).
        self.registers.fence();
        self.registers.write_msr(DEADLINE_MSR, ticks);
    }

    #[inline]
    fn command(&self, apic_id: u32, low: u32) {
        if self.form == Form::X2Apic {
            // Unlike a store to memory, a write to this MSR is not ordered after stores before it, and the receiver must see
            // what the message is about (Intel SDM vol. 3, section 12.12.3).
            self.registers.fence();
            let message = u64::from(apic_id) << 32 | u64::from(low);
            self.registers.write_msr(msr(Register::CommandLow), message);
            return;
        }
        // An interrupt handler that sends between the two halves would send this one's message to its own destination.
        self.registers.without_interrupts(|| {
            self.write(Register::CommandHigh, apic_id << 24);
            self.write(Register::CommandLow, low);
            while self.read(Register::CommandLow) & COMMAND_PENDING != 0 {
                core::hint::spin_loop();
            }
        });
    }

    #[inline]
    fn read(&self, register: Register) -> u32 {
        match self.form {
            Form::XApic => self.registers.read_memory(register as u32),
            // The upper half is reserved in every register that is read here.
            Form::X2Apic => self.registers.read_msr(msr(register)) as u32,
        }
    }

    #[inline]
    fn write(&self, register: Register, value: u32) {
        match self.form {
            Form::XApic => self.registers.write_memory(register as u32, value),
            Form::X2Apic => self.registers.write_msr(msr(register), u64::from(value)),
        }
    }
}

const fn msr(register: Register) -> u32 {
    0x800 + (register as u32 >> 4)
}

#[cfg(test)]
mod tests;
