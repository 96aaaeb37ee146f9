//! The areas as `/proc/vmallocinfo` lists them.
//!
//! ```text
//! 0xffffc90000000000-0xffffc90000005000   20480 kernel/src/main.rs:17 pages=4 vmalloc N0=4
//! 0xffffc90000006000-0xffffc90000008000    8192 kernel/src/arch/x86_64/acpi.rs:88 phys=0x00000000fed00000 ioremap
//! 0xffffc90000008000-0xffffc9000000a000    8192 unpurged vm_area
//! ```
//!
//! The columns are Linux's (`s_show` in mm/vmalloc.c): the size is with the guard page, `pages=` without, and the end is the first address
//! behind. Three things are better than there: the rows are in the order of their addresses, a caller is a file and a line, and how many
//! large pages an area is made of stands at the end: `2M=3 1G=1`. Who may not know addresses is shown zeros for them, as Linux's `%pK`
//! does (Documentation/core-api/printk-formats.rst).

use core::fmt;

use kspace_frames::zone::{MAX_NODES, NodeId};
use kspace_layout::{FRAME_SIZE, PageSize, PagingMode, Pfn, VirtAddr};
use kspace_paging::{End, Walker};

use crate::vmalloc::{AreaInfo, Kernel, Kind, State, Vmalloc};

/// Which addresses a reader is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Addresses {
    /// None: zeros stand for them. The layout of the kernel is a secret, and most readers need sizes and callers only.
    #[default]
    Hidden,
    /// Real ones: for the privileged (Linux: `CAP_SYSLOG`).
    Real,
}

/// The text, by [`Display`](fmt::Display): one row for each area.
pub struct VmallocInfo<'v, 'a, K: Kernel, const CPUS: usize, N> {
    areas: &'v Vmalloc<'a, K, CPUS>,
    node_of: N,
    addresses: Addresses,
}

impl<'v, 'a, K: Kernel, const CPUS: usize, N: Fn(Pfn) -> Option<NodeId>>
    VmallocInfo<'v, 'a, K, CPUS, N>
{
    /// The text about `areas`, for a reader who is shown such `addresses`. `node_of` tells a frame's node, for the counts of pages by node.
    pub const fn new(areas: &'v Vmalloc<'a, K, CPUS>, addresses: Addresses, node_of: N) -> Self {
        Self {
            areas,
            node_of,
            addresses,
        }
    }

    fn walker(&self) -> Walker<'a, K::Memory> {
        let tables = self.areas.tables();
        Walker::new(tables.mode(), tables.root(), tables.memory()).with_limits(tables.limits())
    }

    fn write_row(&self, f: &mut fmt::Formatter<'_>, info: &AreaInfo) -> fmt::Result {
        let size = (info.pages + 1) * FRAME_SIZE;
        let start = info.range.start();
        let end = start.as_u64().wrapping_add(size);
        write!(
            f,
            "{}-{} {size:>7}",
            self.pointer(start.as_u64()),
            self.pointer(end)
        )?;
        match (info.state, info.kind) {
            (State::Freed, _) => return f.write_str(" unpurged vm_area\n"),
            (State::Live, Kind::ShortLived) => return f.write_str(" vm_map_ram\n"),
            (State::Live, _) => {}
        }
        if let Some(caller) = info.caller {
            write!(f, " {}:{}", caller.file(), caller.line())?;
        }
        match info.kind {
            Kind::Device => {
                self.write_phys(f, start)?;
                f.write_str(" ioremap")?;
            }
            Kind::Frames => f.write_str(" vmap")?,
            kind => {
                write!(f, " pages={} vmalloc", info.pages)?;
                if kind != Kind::Memory {
                    write!(f, " {kind}")?;
                }
                if info.user {
                    f.write_str(" user")?;
                }
                self.write_nodes(f, info)?;
            }
        }
        f.write_str("\n")
    }

    /// As `%px` prints an address of this mode.
    const fn pointer(&self, address: u64) -> Pointer {
        let digits = match self.areas.tables().mode() {
            PagingMode::TwoLevel | PagingMode::Pae => 8,
            PagingMode::FourLevel | PagingMode::FiveLevel => 16,
        };
        let address = match self.addresses {
            Addresses::Hidden => 0,
            Addresses::Real => address,
        };
        Pointer { address, digits }
    }

    /// Where the device is, if it is mapped still.
    fn write_phys(&self, f: &mut fmt::Formatter<'_>, start: VirtAddr) -> fmt::Result {
        match self.walker().walk(start).end() {
            End::Page(page) => {
                let phys = match self.addresses {
                    Addresses::Hidden => 0,
                    Addresses::Real => page.phys.as_u64(),
                };
                write!(f, " phys=0x{phys:016x}")
            }
            _ => Ok(()),
        }
    }

    /// How many pages lie in which node, and how many large pages they are.
    fn write_nodes(&self, f: &mut fmt::Formatter<'_>, info: &AreaInfo) -> fmt::Result {
        let mut counts = [0_u64; MAX_NODES];
        let (mut large, mut huge) = (0, 0);
        for run in self.walker().runs(info.range).flatten() {
            let pages = run.virt.size() / run.page.bytes();
            match run.page {
                PageSize::Size4K => {}
                PageSize::Size1G => huge += pages,
                PageSize::Size2M | PageSize::Size4M => large += pages,
            }
            let first = run.phys.pfn().as_u64();
            for frame in first..first + run.virt.size() / FRAME_SIZE {
                let node = Pfn::try_new(frame).ok().and_then(&self.node_of);
                if let Some(count) = node.and_then(|node| counts.get_mut(usize::from(node.get()))) {
                    *count += 1;
                }
            }
        }
        for (node, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            write!(f, " N{node}={count}")?;
        }
        let size = self.areas.tables().mode().leaf_size(2);
        if let Some(size) = size.filter(|_| large > 0) {
            write!(f, " {size}={large}")?;
        }
        if huge > 0 {
            write!(f, " {}={huge}", PageSize::Size1G)?;
        }
        Ok(())
    }
}

impl<K: Kernel, const CPUS: usize, N: Fn(Pfn) -> Option<NodeId>> fmt::Display
    for VmallocInfo<'_, '_, K, CPUS, N>
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.areas
            .areas()
            .try_for_each(|info| self.write_row(f, &info))
    }
}

/// `0xffffc90000000000`
struct Pointer {
    address: u64,
    digits: usize,
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:0digits$x}", self.address, digits = self.digits)
    }
}
