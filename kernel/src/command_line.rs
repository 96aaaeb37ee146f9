//! The kernel's command line: a few words, each checked, the unknown ones reported.
//!
//! Words are separated by spaces. Every word that is not understood is handed back with a reason, because a misspelt
//! `nokalsr` that does nothing costs its user an evening.

use core::fmt;

use kspace_frames::parse_size;

pub use area_debug::AreaDebug;
pub use area_tests::{AreaTest, AreaTests, BadAreaTests};
pub use shown::{Shown, Text};

mod area_debug;
mod area_tests;
mod shown;

/// What the words ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommandLine {
    /// `nokaslr`: every area at Linux's default address.
    pub nokaslr: bool,
    /// `no5lvl`: four levels even where the CPU has five.
    pub no5lvl: bool,
    /// `nogbpages`: no 1 GiB pages in the direct map.
    pub nogbpages: bool,
    /// `mem=SIZE`: use no physical memory above this many bytes.
    pub mem: Option<u64>,
    /// `numa=off`: all memory and all CPUs are one node, whatever the firmware says.
    pub numa_off: bool,
    /// `min_free_kbytes=N`: how many KiB only urgent requests may have. Whether memory is large enough for it, the zones say.
    pub min_free_kbytes: Option<u64>,
    /// `show=NAME,NAME`: the texts to print at the end of the boot.
    pub show: Shown,
    /// `dmesg`: print the log once more before the end, read back from its ring.
    pub dmesg: bool,
    /// `halt`: stay halted after boot instead of leaving the virtual machine.
    pub halt: bool,
    /// `measure`: print what flushes cost.
    pub measure: bool,
    /// `stress=N`: let every CPU map, use, unmap and reuse this many times, and check what it reads.
    pub stress: Option<u64>,
    /// `stress-frames=N`: let every CPU allocate, fill, check and free memory in so many rounds, then use it up.
    pub stress_frames: Option<u64>,
    /// `test-vmalloc=NAME,NAME:LOOPS`: do these workloads on areas, and print what they cost.
    pub test_vmalloc: Option<AreaTests>,
    /// `soak-vmalloc=N`: let all CPUs make, fill, check and free areas, so many operations together.
    pub soak_vmalloc: Option<u64>,
    /// `test-text-patch=N`: change code so many times while all CPUs run it, and check what they see.
    pub test_text_patch: Option<u64>,
    /// `fragment-vmalloc`: break memory up, and ask for 256 MiB as an area and for 64 KiB in a row.
    pub fragment_vmalloc: bool,
    /// `vmalloc-quarantine=N`: purge freed areas when N pages wait, and not at what suits the machine; 0 means at once.
    pub vmalloc_quarantine: Option<u64>,
    /// `vmalloc-debug=MODE,MODE`: make mistakes with areas show sooner.
    pub vmalloc_debug: AreaDebug,
    /// `seed=N`: what the stress delays at random, and where areas lie at random, follows from this; 0 means no delays. Without it each
    /// boot draws one.
    pub seed: Option<u64>,
    /// `test-permissions`: change rights, memory types and presence of live pages.
    pub test_permissions: bool,
    /// `provoke=NAME`: provoke a fault once booted, to see it explained.
    pub provoke: Option<Provocation>,
}

/// A fault that the kernel can be asked to commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provocation {
    /// Write to the kernel's own code.
    WriteText,
    /// Write to a constant.
    WriteRodata,
    /// Write to code through its alias in the direct map.
    WriteTextAlias,
    /// Jump into data.
    ExecuteData,
    /// Read the null pointer.
    Null,
    /// Read an address that is not canonical.
    NonCanonical,
    /// Recurse until the stack ends.
    StackOverflow,
    /// The same on CPU 1.
    StackOverflowOnCpu1,
    /// Touch the guard page of the #DF stack.
    GuardPage,
    /// Read the end of the vmalloc area, where nothing is mapped yet.
    Vmalloc,
    /// Read an area that was freed.
    FreedArea,
    /// Read behind the end of an area.
    AreaGuard,
    /// Free an area that a value has by its bare address, and then the value.
    DoubleVfree,
    /// Read an area in a user space after it was unmapped there.
    UnmappedUser,
    /// Read a slot of the fixmap that shows nothing.
    EmptySlot,
    /// Read the direct map of a hole in physical memory.
    DirectMapHole,
    /// Read a hole between two areas.
    Hole,
    /// Read a user page from the kernel (SMAP).
    UserAccess,
    /// Jump to a user page from the kernel (SMEP).
    UserExecute,
    /// Wait for a flush with a spin lock held.
    LockAcrossFlush,
    /// Panic, with the other CPUs running.
    Panic,
    /// Panic on every CPU at once.
    PanicEverywhere,
    /// Allocate until the heap has nothing left.
    HeapExhausted,
    /// Write to a page of an area that was made read-only.
    ReadOnlyPage,
    /// Read a page of the direct map that was made non-present.
    NonPresentPage,
}

impl Provocation {
    /// Every provocation with the word that asks for it.
    pub const ALL: [(&'static str, Self); 25] = [
        ("write-text", Self::WriteText),
        ("write-rodata", Self::WriteRodata),
        ("write-text-alias", Self::WriteTextAlias),
        ("execute-data", Self::ExecuteData),
        ("null", Self::Null),
        ("non-canonical", Self::NonCanonical),
        ("stack-overflow", Self::StackOverflow),
        ("stack-overflow-cpu1", Self::StackOverflowOnCpu1),
        ("guard-page", Self::GuardPage),
        ("vmalloc", Self::Vmalloc),
        ("freed-area", Self::FreedArea),
        ("area-guard", Self::AreaGuard),
        ("double-vfree", Self::DoubleVfree),
        ("unmapped-user", Self::UnmappedUser),
        ("empty-slot", Self::EmptySlot),
        ("direct-map-hole", Self::DirectMapHole),
        ("hole", Self::Hole),
        ("user-access", Self::UserAccess),
        ("user-execute", Self::UserExecute),
        ("lock-across-flush", Self::LockAcrossFlush),
        ("panic", Self::Panic),
        ("panic-everywhere", Self::PanicEverywhere),
        ("heap-exhausted", Self::HeapExhausted),
        ("read-only-page", Self::ReadOnlyPage),
        ("non-present-page", Self::NonPresentPage),
    ];
}

/// Why a word was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejected<'a> {
    /// No such word.
    Unknown(&'a str),
    /// After the last of those: the words that there are.
    Known,
    /// The value after `mem=` is no size.
    BadSize(&'a str, kspace_frames::SizeError<'a>),
    /// The value is no decimal number.
    BadNumber(&'a str),
    /// The value after `provoke=` is none of [`Provocation::ALL`].
    UnknownProvocation(&'a str),
    /// The value after `numa=` is not `off`.
    BadNuma(&'a str),
    /// The value after `show=` has a name that is none of [`Text::ALL`].
    UnknownText {
        /// The word.
        word: &'a str,
        /// The name in it.
        name: &'a str,
    },
    /// The value after `vmalloc-debug=` has a name that is none of [`AreaDebug::NAMES`].
    UnknownAreaDebug {
        /// The word.
        word: &'a str,
        /// The name in it.
        name: &'a str,
    },
    /// The value after `test-vmalloc=` names no workloads.
    BadAreaTests {
        /// The word.
        word: &'a str,
        /// What is wrong with it.
        problem: BadAreaTests<'a>,
    },
    /// A word whose bytes are not UTF-8, at this offset.
    NotText(usize),
}

impl fmt::Display for Rejected<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(word) => {
                write!(f, "command line: \"{word}\" is not known and was not used")
            }
            Self::Known => f.write_str(
                "command line: known: nokaslr no5lvl nogbpages mem= numa=off min_free_kbytes= show= dmesg halt measure stress= \
                 stress-frames= test-vmalloc= soak-vmalloc= test-text-patch= fragment-vmalloc vmalloc-quarantine= vmalloc-debug= test-permissions seed= provoke="
            ),
            Self::BadSize(word, error) => {
                write!(f, "command line: \"{word}\" was not used: {error}")
            }
            Self::BadNumber(word) => {
                write!(
                    f,
                    "command line: \"{word}\" was not used: its value is no decimal number"
                )
            }
            Self::UnknownProvocation(word) => {
                write!(f, "command line: \"{word}\" was not used; provoke= knows")?;
                Provocation::ALL
                    .iter()
                    .try_for_each(|(name, _)| write!(f, " {name}"))
            }
            Self::BadNuma(word) => {
                write!(f, "command line: \"{word}\" was not used; numa= knows off")
            }
            Self::UnknownText { word, name } => {
                write!(
                    f,
                    "command line: \"{word}\" was not used: \"{name}\" is no text; show= knows"
                )?;
                Text::ALL.iter().try_for_each(|text| write!(f, " {text}"))
            }
            Self::UnknownAreaDebug { word, name } => {
                write!(
                    f,
                    "command line: \"{word}\" was not used: \"{name}\" is no mode; vmalloc-debug= knows"
                )?;
                AreaDebug::NAMES
                    .iter()
                    .try_for_each(|name| write!(f, " {name}"))
            }
            Self::BadAreaTests { word, problem } => {
                write!(f, "command line: \"{word}\" was not used: {problem}")
            }
            Self::NotText(offset) => {
                write!(
                    f,
                    "command line: the word at byte {offset} is not UTF-8 and was not used"
                )
            }
        }
    }
}

impl CommandLine {
    /// Reads the words of `line`. Each that is not understood goes to `rejected`; the last of equal words wins.
    pub fn parse<'a>(line: &'a [u8], mut rejected: impl FnMut(Rejected<'a>)) -> Self {
        let mut result = Self::default();
        let (mut offset, mut unknown) = (0, false);
        for word in line.split(|byte| byte.is_ascii_whitespace()) {
            let start = offset;
            offset += word.len() + 1;
            if word.is_empty() {
                continue;
            }
            match core::str::from_utf8(word) {
                Ok(word) => {
                    if let Err(reason) = result.take(word) {
                        unknown |= matches!(reason, Rejected::Unknown(_));
                        rejected(reason);
                    }
                }
                Err(_) => rejected(Rejected::NotText(start)),
            }
        }
        if unknown {
            rejected(Rejected::Known);
        }
        result
    }

    fn take<'a>(&mut self, word: &'a str) -> Result<(), Rejected<'a>> {
        match word {
            "nokaslr" => self.nokaslr = true,
            "no5lvl" => self.no5lvl = true,
            "nogbpages" => self.nogbpages = true,
            "dmesg" => self.dmesg = true,
            "measure" => self.measure = true,
            "halt" => self.halt = true,
            "fragment-vmalloc" => self.fragment_vmalloc = true,
            "test-permissions" => self.test_permissions = true,
            _ => {
                if let Some(value) = word.strip_prefix("mem=") {
                    let size = parse_size(value.as_bytes())
                        .map_err(|error| Rejected::BadSize(word, error))?;
                    self.mem = Some(size);
                } else if let Some(value) = word.strip_prefix("numa=") {
                    if value != "off" {
                        return Err(Rejected::BadNuma(word));
                    }
                    self.numa_off = true;
                } else if let Some(value) = word.strip_prefix("min_free_kbytes=") {
                    self.min_free_kbytes = Some(number(word, value)?);
                } else if let Some(value) = word.strip_prefix("show=") {
                    self.show =
                        Shown::parse(value).map_err(|name| Rejected::UnknownText { word, name })?;
                } else if let Some(value) = word.strip_prefix("stress-frames=") {
                    self.stress_frames = Some(number(word, value)?);
                } else if let Some(value) = word.strip_prefix("stress=") {
                    self.stress = Some(number(word, value)?);
                } else if let Some(value) = word.strip_prefix("test-vmalloc=") {
                    let tests = AreaTests::parse(value);
                    let tests =
                        tests.map_err(|problem| Rejected::BadAreaTests { word, problem })?;
                    self.test_vmalloc = Some(tests);
                } else if let Some(value) = word.strip_prefix("soak-vmalloc=") {
                    self.soak_vmalloc = Some(number(word, value)?);
                } else if let Some(value) = word.strip_prefix("test-text-patch=") {
                    self.test_text_patch = Some(number(word, value)?);
                } else if let Some(value) = word.strip_prefix("vmalloc-quarantine=") {
                    self.vmalloc_quarantine = Some(number(word, value)?);
                } else if let Some(value) = word.strip_prefix("vmalloc-debug=") {
                    self.vmalloc_debug = AreaDebug::parse(value)
                        .map_err(|name| Rejected::UnknownAreaDebug { word, name })?;
                } else if let Some(value) = word.strip_prefix("seed=") {
                    self.seed = Some(number(word, value)?);
                } else if let Some(value) = word.strip_prefix("provoke=") {
                    let known = Provocation::ALL.iter().find(|(name, _)| *name == value);
                    let (_, provocation) = known.ok_or(Rejected::UnknownProvocation(word))?;
                    self.provoke = Some(*provocation);
                } else {
                    return Err(Rejected::Unknown(word));
                }
            }
        }
        Ok(())
    }
}

fn number<'a>(word: &'a str, value: &str) -> Result<u64, Rejected<'a>> {
    value.parse().map_err(|_| Rejected::BadNumber(word))
}

#[cfg(test)]
mod tests {
    use std::borrow::ToOwned;
    use std::string::{String, ToString};
    use std::vec::Vec;

    use super::*;

    fn check(line: &[u8]) -> (CommandLine, Vec<String>) {
        let mut messages = Vec::new();
        let parsed = CommandLine::parse(line, |reason| messages.push(reason.to_string()));
        (parsed, messages)
    }

    #[test]
    fn known_words_are_taken_and_spaces_ignored() {
        let (parsed, messages) = check(
            b"  nokaslr no5lvl\tnogbpages  mem=64M numa=off min_free_kbytes=4096 show=iomem,zoneinfo dmesg halt measure stress=5 stress-frames=6 seed=7 \
              test-vmalloc=vm_map_ram_test,fix_size_alloc_test:8 soak-vmalloc=9 test-text-patch=11 fragment-vmalloc vmalloc-quarantine=10 vmalloc-debug=flush,poison test-permissions provoke=null ",
        );
        assert_eq!(messages, Vec::<String>::new());
        let expected = CommandLine {
            nokaslr: true,
            no5lvl: true,
            nogbpages: true,
            mem: Some(64 << 20),
            numa_off: true,
            min_free_kbytes: Some(4096),
            show: Shown::parse("zoneinfo,iomem").unwrap(),
            dmesg: true,
            halt: true,
            measure: true,
            stress: Some(5),
            stress_frames: Some(6),
            test_vmalloc: AreaTests::parse("fix_size_alloc_test,vm_map_ram_test:8").ok(),
            soak_vmalloc: Some(9),
            test_text_patch: Some(11),
            fragment_vmalloc: true,
            vmalloc_quarantine: Some(10),
            vmalloc_debug: AreaDebug {
                poison: true,
                random: false,
                flush: true,
            },
            test_permissions: true,
            seed: Some(7),
            provoke: Some(Provocation::Null),
        };
        assert_eq!(parsed, expected);
    }

    #[test]
    fn what_is_not_understood_is_reported_and_changes_nothing() {
        let (parsed, messages) = check(b"nokalsr \xff\xfe provoke=fire nokaslr=1 stress=-1");
        assert_eq!(parsed, CommandLine::default());
        assert_eq!(
            messages,
            [
                "command line: \"nokalsr\" is not known and was not used",
                "command line: the word at byte 8 is not UTF-8 and was not used",
                "command line: \"provoke=fire\" was not used; provoke= knows write-text write-rodata write-text-alias \
                 execute-data null non-canonical stack-overflow stack-overflow-cpu1 guard-page vmalloc freed-area area-guard double-vfree unmapped-user empty-slot direct-map-hole hole user-access user-execute lock-across-flush panic panic-everywhere heap-exhausted read-only-page non-present-page",
                "command line: \"nokaslr=1\" is not known and was not used",
                "command line: \"stress=-1\" was not used: its value is no decimal number",
                "command line: known: nokaslr no5lvl nogbpages mem= numa=off min_free_kbytes= show= dmesg halt measure stress= \
                 stress-frames= test-vmalloc= soak-vmalloc= test-text-patch= fragment-vmalloc vmalloc-quarantine= vmalloc-debug= test-permissions seed= provoke=",
            ]
        );
    }

    #[test]
    fn words_about_memory_are_checked() {
        let (parsed, messages) = check(
            b"numa=on numa= min_free_kbytes=64M min_free_kbytes= show=zoneinfo,slabinfo show= show=zoneinfo,",
        );
        assert_eq!(parsed, CommandLine::default());
        assert_eq!(
            messages,
            [
                "command line: \"numa=on\" was not used; numa= knows off",
                "command line: \"numa=\" was not used; numa= knows off",
                "command line: \"min_free_kbytes=64M\" was not used: its value is no decimal number",
                "command line: \"min_free_kbytes=\" was not used: its value is no decimal number",
                "command line: \"show=zoneinfo,slabinfo\" was not used: \"slabinfo\" is no text; show= knows zoneinfo buddyinfo iomem \
                 meminfo memtype vmallocinfo",
                "command line: \"show=\" was not used: \"\" is no text; show= knows zoneinfo buddyinfo iomem meminfo memtype vmallocinfo",
                "command line: \"show=zoneinfo,\" was not used: \"\" is no text; show= knows zoneinfo buddyinfo iomem meminfo memtype vmallocinfo",
            ]
        );
    }

    #[test]
    fn modes_of_areas_are_checked() {
        let (parsed, messages) = check(b"vmalloc-debug=random vmalloc-debug=poison,slow");
        assert_eq!(parsed.vmalloc_debug, AreaDebug::parse("random").unwrap());
        assert_eq!(
            messages,
            [
                "command line: \"vmalloc-debug=poison,slow\" was not used: \"slow\" is no mode; vmalloc-debug= knows poison random flush"
            ]
        );
    }

    #[test]
    fn texts_come_in_one_order_each_once() {
        let (parsed, messages) = check(b"show=meminfo,zoneinfo,meminfo");
        assert_eq!(messages, Vec::<String>::new());
        assert_eq!(
            parsed.show.texts().collect::<Vec<_>>(),
            [Text::Zoneinfo, Text::Meminfo]
        );
    }

    #[test]
    fn workloads_come_in_one_order_and_are_checked() {
        let (parsed, messages) = check(b"test-vmalloc=vm_map_ram_test,fix_size_alloc_test");
        assert_eq!(messages, Vec::<String>::new());
        let tests = parsed.test_vmalloc.unwrap();
        assert_eq!(
            tests.tests().collect::<Vec<_>>(),
            [AreaTest::FixSize, AreaTest::VmMapRam]
        );
        assert_eq!(tests.loops(), 5000);
        let all = AreaTests::parse("all:3").unwrap();
        assert_eq!(all.tests().collect::<Vec<_>>(), AreaTest::ALL);
        assert_eq!(all.loops(), 3);
        let (parsed, messages) =
            check(b"test-vmalloc=all:0 test-vmalloc=all,fix test-vmalloc= soak-vmalloc=x");
        assert_eq!(parsed, CommandLine::default());
        let names = "test-vmalloc= knows all fix_size_alloc_test full_fit_alloc_test long_busy_list_alloc_test random_size_alloc_test \
                     fix_align_alloc_test random_size_align_alloc_test align_shift_alloc_test vm_map_ram_test bookkeeping scaling \
                     remap bad_input large_pages reallocate";
        assert_eq!(
            messages,
            [
                "command line: \"test-vmalloc=all:0\" was not used: after the colon stands how often, and \"0\" is no number above 0".to_owned(),
                std::format!("command line: \"test-vmalloc=all,fix\" was not used: \"all\" is no workload; {names}"),
                std::format!("command line: \"test-vmalloc=\" was not used: \"\" is no workload; {names}"),
                "command line: \"soak-vmalloc=x\" was not used: its value is no decimal number".to_owned(),
            ]
        );
    }

    #[test]
    fn an_unusable_size_is_rejected_with_the_word() {
        let (parsed, messages) = check(b"mem=64Q");
        assert_eq!(parsed.mem, None);
        assert_eq!(messages.len(), 1);
        assert!(
            messages[0].starts_with("command line: \"mem=64Q\" was not used: "),
            "{}",
            messages[0]
        );
    }
}
