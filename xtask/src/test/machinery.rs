//! The QEMU driver itself, on [the tiny guest](crate::qemu::tiny_guest): its serial port, its ends, the monitor, the debugger.
//!
//! A boot that fails should fail for the kernel's reasons; what fails here is ours.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::boots::LIMIT;
use super::report::{Failed, Outcome, Passed};
use crate::qemu::boot::{Exit, boot};
use crate::qemu::gdb::Register;
use crate::qemu::machine::Machine;
use crate::qemu::paused::Paused;
use crate::qemu::tiny_guest::{self, End};

type Checked = std::result::Result<(), Failed>;

/// How long a guest that never ends is waited for.
const SHORT: Duration = Duration::from_secs(2);

/// Tries everything that the other boots rely on.
pub(crate) fn machinery(qemu: &Path) -> Outcome {
    ends(qemu)?;
    monitor_and_debugger(qemu)?;
    Ok(Passed::one())
}

/// A success, a reset and a guest that never ends are told apart.
fn ends(qemu: &Path) -> Checked {
    let limit = |end| if end == End::Never { SHORT } else { LIMIT };
    for (end, exit) in [
        (End::Success, Exit::Success),
        (End::Reset, Exit::Reset),
        (End::Never, Exit::TimedOut(SHORT)),
    ] {
        let file = guest(end)?;
        let ended = boot(machine().command(qemu, &file), limit(end), |_| {})?;
        expect("the guest's log", "first\n", &ended.log)?;
        expect("its end", &exit.to_string(), &ended.exit.to_string())?;
        let shows_exceptions = ended.complaints.contains("before the reset: 0: v=06");
        if shows_exceptions != (end == End::Reset) {
            return Err(Failed::because(format!("{exit}: {}", ended.complaints)));
        }
    }
    Ok(())
}

/// A guest stopped at its first instruction can be read by the monitor and altered by the debugger.
fn monitor_and_debugger(qemu: &Path) -> Checked {
    let (entry, text) = (u64::from(tiny_guest::ENTRY), u64::from(tiny_guest::TEXT));
    let paused = Paused::start_stopped(machine().command(qemu, &guest(End::Success)?))?;
    let mut gdb = paused.gdb()?;
    gdb.break_at(entry)?;
    gdb.continue_to_break()?;
    let at = gdb.register(Register::Rip)?;
    expect(
        "the instruction pointer at the breakpoint",
        "00100000",
        &format!("{at:08x}"),
    )?;

    let dump = paused.folder().join("dump");
    let read = paused.monitor()?.read_physical(text, 5, &dump)?;
    expect(
        "the guest's text by the monitor",
        "first",
        &String::from_utf8_lossy(&read),
    )?;
    gdb.write(text, b"other")?;
    let read = gdb.read(text, 5)?;
    expect(
        "the guest's text by the debugger",
        "other",
        &String::from_utf8_lossy(&read),
    )?;
    gdb.set_register(Register::Rbx, 0x1234_5678)?;
    let set = gdb.register(Register::Rbx)?;
    expect(
        "a register after setting it",
        "12345678",
        &format!("{set:08x}"),
    )?;

    gdb.clear_break(entry)?;
    gdb.detach()?;
    let ended = paused.until_its_end(LIMIT)?;
    expect("the log of an altered run", "other\n", &ended.log)?;
    expect(
        "its end",
        &Exit::Success.to_string(),
        &ended.exit.to_string(),
    )
}

fn machine() -> Machine {
    Machine {
        mem_mib: 64,
        ..Machine::default()
    }
}

fn guest(end: End) -> std::result::Result<PathBuf, Failed> {
    let failed = |error: std::io::Error| Failed::because(format!("the tiny guest: {error}"));
    let file = crate::host::scratch_dir()
        .map_err(failed)?
        .join(format!("tiny-guest-{end:?}.elf"));
    std::fs::write(&file, tiny_guest::elf("first", end)).map_err(failed)?;
    Ok(file)
}

fn expect(what: &str, expected: &str, found: &str) -> Checked {
    if found == expected {
        return Ok(());
    }
    Err(Failed::because(format!(
        "{what}: expected {expected:?}, found {found:?}"
    )))
}
