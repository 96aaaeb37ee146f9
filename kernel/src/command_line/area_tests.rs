//! `test-vmalloc=`: workloads on areas, named as the tests of Linux's `lib/test_vmalloc.c` that do the same.

use core::fmt;

/// A workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AreaTest {
    /// One page.
    FixSize,
    /// One page, when free places are as large as that and many.
    FullFit,
    /// A hundred pages and one, beside 15,000 areas.
    LongBusyList,
    /// One to a hundred pages.
    RandomSize,
    /// Five pages of zeros, aligned.
    FixAlign,
    /// One to ten pages of zeros, aligned to anything up to 4 MiB.
    RandomSizeAlign,
    /// Every alignment there is, until one is refused.
    AlignShift,
    /// A page of somebody else's, for a short time.
    VmMapRam,
    /// Not in Linux: what the books cost.
    Bookkeeping,
    /// Not in Linux: the first one on all CPUs, beside work that they share nothing in.
    Scaling,
    /// Not in Linux's: an area in a user space.
    Remap,
    /// Not in Linux's: all that is to be refused.
    BadInput,
    /// Not in Linux: the largest pages that there are, and areas of each node.
    LargePages,
    /// Not in Linux: an area that gets one size after the other.
    Reallocate,
}

impl AreaTest {
    /// All of them, in the order in which they are run.
    pub const ALL: [Self; 14] = [
        Self::FixSize,
        Self::FullFit,
        Self::LongBusyList,
        Self::RandomSize,
        Self::FixAlign,
        Self::RandomSizeAlign,
        Self::AlignShift,
        Self::VmMapRam,
        Self::Bookkeeping,
        Self::Scaling,
        Self::Remap,
        Self::BadInput,
        Self::LargePages,
        Self::Reallocate,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::FixSize => "fix_size_alloc_test",
            Self::FullFit => "full_fit_alloc_test",
            Self::LongBusyList => "long_busy_list_alloc_test",
            Self::RandomSize => "random_size_alloc_test",
            Self::FixAlign => "fix_align_alloc_test",
            Self::RandomSizeAlign => "random_size_align_alloc_test",
            Self::AlignShift => "align_shift_alloc_test",
            Self::VmMapRam => "vm_map_ram_test",
            Self::Bookkeeping => "bookkeeping",
            Self::Scaling => "scaling",
            Self::Remap => "remap",
            Self::BadInput => "bad_input",
            Self::LargePages => "large_pages",
            Self::Reallocate => "reallocate",
        }
    }
}

impl fmt::Display for AreaTest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Loops when the word does not say how many, as the peer's.
const LOOPS: u64 = 5000;

/// A set of workloads, and how often each is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AreaTests {
    chosen: [bool; AreaTest::ALL.len()],
    loops: u64,
}

/// Why a value of `test-vmalloc=` says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadAreaTests<'a> {
    /// A name that is none.
    Name(&'a str),
    /// What follows the colon is no number above 0.
    Loops(&'a str),
}

impl fmt::Display for BadAreaTests<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => {
                write!(f, "\"{name}\" is no workload; test-vmalloc= knows all")?;
                AreaTest::ALL
                    .iter()
                    .try_for_each(|test| write!(f, " {test}"))
            }
            Self::Loops(loops) => write!(
                f,
                "after the colon stands how often, and \"{loops}\" is no number above 0"
            ),
        }
    }
}

impl AreaTests {
    /// The workloads named in `value`, with commas between them, and how often after a colon: `fix_size_alloc_test,vm_map_ram_test:100`.
    /// `all` is all of them.
    ///
    /// # Errors
    ///
    /// [`BadAreaTests`].
    pub fn parse(value: &str) -> Result<Self, BadAreaTests<'_>> {
        let (names, loops) = match value.split_once(':') {
            Some((names, loops)) => {
                let number = loops.parse().ok().filter(|loops| *loops > 0);
                (names, number.ok_or(BadAreaTests::Loops(loops))?)
            }
            None => (value, LOOPS),
        };
        let mut tests = Self {
            chosen: [names == "all"; AreaTest::ALL.len()],
            loops,
        };
        for name in names.split(',').filter(|_| names != "all") {
            let place = AreaTest::ALL.iter().position(|test| test.name() == name);
            tests.chosen[place.ok_or(BadAreaTests::Name(name))?] = true;
        }
        Ok(tests)
    }

    /// The workloads, in the order of [`AreaTest::ALL`].
    pub fn tests(self) -> impl Iterator<Item = AreaTest> {
        AreaTest::ALL
            .into_iter()
            .filter(move |test| self.chosen[*test as usize])
    }

    /// How often each is done.
    #[must_use]
    pub const fn loops(self) -> u64 {
        self.loops
    }
}
