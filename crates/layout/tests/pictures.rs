//! The pictures in the crate's documentation are drawn from the layouts, not by hand.

use kspace_layout::{I386, Layout, PagingMode, PhysAddr, Split, X86_64};

const LAST_RAM: PhysAddr = PhysAddr::new((4 << 30) - 1);

/// The file `docs/pictures.md`, as it should be.
fn pictures() -> String {
    let x86_64 = |mode| X86_64::new(mode, LAST_RAM).build().unwrap();
    let mut text = String::from(
        "# The layouts\n\
         \n\
         Highest address first; the address on a line is the first of the box above it. A box with dots for sides is a hole. *Built*\n\
         and *reserved* are as the kspace kernel has them.\n",
    );
    for (title, layout) in [
        ("x86-64, 4-level paging", x86_64(PagingMode::FourLevel)),
        ("x86-64, 5-level paging", x86_64(PagingMode::FiveLevel)),
    ] {
        text += &section(title, &layout);
    }
    for (title, layout) in every_i386() {
        text += &section(&title, &layout);
    }
    text
}

/// Every combination of split, paging mode and high memory that there is: with high memory 4 GiB of RAM, without it 512 MiB.
fn every_i386() -> Vec<(String, Layout)> {
    const NO_HIGH_MEMORY: PhysAddr = PhysAddr::new((512 << 20) - 1);
    let mut layouts = Vec::new();
    for split in Split::ALL {
        for mode in [PagingMode::Pae, PagingMode::TwoLevel] {
            for (highmem, last_ram) in [(true, LAST_RAM), (false, NO_HIGH_MEMORY)] {
                // The splits that are not a multiple of 1 GiB do not exist with PAE.
                if let Ok(layout) = I386::new(split, mode, last_ram).highmem(highmem).build() {
                    let words = if highmem {
                        "high memory, 4 GiB"
                    } else {
                        "no high memory, 512 MiB"
                    };
                    let title = format!("i386, {split} split, {mode}, {words} of RAM");
                    layouts.push((title, layout));
                }
            }
        }
    }
    assert_eq!(layouts.len(), 16);
    layouts
}

fn section(title: &str, layout: &Layout) -> String {
    format!("\n## {title}\n\n```text\n{}\n```\n", layout.picture())
}

#[test]
fn the_documented_pictures_are_the_layouts() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/pictures.md");
    let expected = pictures();
    // `KSPACE_REDRAW=1 cargo test -p kspace-layout --test pictures` writes the file anew.
    if std::env::var_os("KSPACE_REDRAW").is_some() {
        std::fs::write(file, &expected).unwrap();
    }
    assert_eq!(
        std::fs::read_to_string(file).unwrap(),
        expected,
        "redraw with KSPACE_REDRAW=1"
    );
}

#[test]
fn every_boundary_is_drawn_once() {
    let layout = X86_64::new(PagingMode::FourLevel, LAST_RAM)
        .build()
        .unwrap();
    let picture = layout.picture().to_string();
    for place in layout.places() {
        let range = place.range().unwrap();
        let edge = format!("{} +", range.start());
        assert_eq!(picture.matches(&edge).count(), 1, "{edge}");
    }
    // The top of each half has a line too; nothing is drawn below the last.
    assert_eq!(
        picture.lines().filter(|line| line.contains(" +-")).count(),
        layout.places().count() + 2
    );
    assert!(picture.ends_with("0000000000000000 +------------------+"));
}
