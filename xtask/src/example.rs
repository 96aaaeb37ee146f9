//! The kernels under examples/: built, and put on a disc from which GRUB boots them.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::{About, Result};
use crate::host::command::{find, quietly};
use crate::host::packages::needed;
use crate::host::toolchain::Toolchain;
use crate::kernel;
use crate::qemu::folder::Folder;

/// The kernels, by the names of their folders.
pub(crate) const EXAMPLES: [&str; 1] = ["multiboot2"];

/// Debian's packages from which the disc is made: GRUB for a PC's BIOS, the program that makes discs, and the two that this one calls.
const PACKAGES: [&str; 4] = ["grub-common", "grub-pc-bin", "xorriso", "mtools"];

/// GRUB's parts for a PC's BIOS, which are no program to be found.
const GRUB_PARTS: &str = "/usr/lib/grub/i386-pc/multiboot2.mod";

/// What GRUB does without asking.
const MENU: &str = "multiboot2 /boot/kernel\nboot\n";

/// A kernel that can be booted from its disc.
#[derive(Clone, Debug)]
pub(crate) struct Example {
    program: PathBuf,
    disc: PathBuf,
}

impl Example {
    /// Builds the example `name`, one of [`EXAMPLES`], and makes its disc, with GRUB installed first where that is missing and may be done.
    ///
    /// # Errors
    ///
    /// When something is missing, or it does not build.
    pub(crate) fn build(name: &str, toolchain: &Toolchain, install: bool) -> Result<Self> {
        let maker = needed("GRUB for a boot disc", &PACKAGES, install, disc_maker)?;
        let package = format!("kspace-example-{name}");
        let program = kernel::build(&package, &format!("the example {name}"), toolchain)?;
        let disc = program.with_extension("iso");
        make_disc(&maker, &program, &disc)?;
        Ok(Self { program, disc })
    }

    /// The ELF file.
    pub(crate) fn program(&self) -> &Path {
        &self.program
    }

    /// The disc.
    pub(crate) fn disc(&self) -> &Path {
        &self.disc
    }
}

/// The program that makes discs, when all that it needs is there.
fn disc_maker() -> Option<PathBuf> {
    find("xorriso")?;
    find("mformat")?;
    find("grub-mkrescue").filter(|_| Path::new(GRUB_PARTS).is_file())
}

fn make_disc(maker: &Path, program: &Path, disc: &Path) -> Result {
    let root = Folder::new()?;
    let boot = root.path().join("boot");
    let menu = boot.join("grub");
    std::fs::create_dir_all(&menu).about(menu.display())?;
    std::fs::copy(program, boot.join("kernel")).about(program.display())?;
    std::fs::write(menu.join("grub.cfg"), MENU).about(menu.display())?;
    let mut command = Command::new(maker);
    // Pictures, letters and languages are for a menu that is never shown.
    command.args(["--fonts=", "--locales=", "--themes=", "--output"]);
    command.arg(disc).arg(root.path());
    quietly(&mut command, "grub-mkrescue made no disc").map(drop)
}
