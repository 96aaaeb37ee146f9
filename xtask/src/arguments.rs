//! What was typed: words in, one [`Verb`] with its options out. Nothing is started or looked up here.

use std::ffi::OsString;
use std::path::PathBuf;

use lexopt::{Arg, Parser, ValueExt};

use crate::example::EXAMPLES;
use crate::failure::{Failure, Result};
use crate::help::Topic;
use crate::host::toolchain::Way;
use crate::nearest::hint;

/// What the program is asked to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    /// Print how a verb is used.
    Help(Topic),
    /// Build the kernel and boot it.
    Run(RunOptions),
    /// Check everything.
    Test(TestOptions),
    /// Measure.
    Bench(BenchOptions),
}

/// The options of `run`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct RunOptions {
    /// `--mem`: RAM of the machine in MiB.
    pub(crate) mem_mib: Option<u64>,
    /// `--smp`: number of CPUs.
    pub(crate) cpus: Option<u32>,
    /// `--la57` or `--no-la57`: whether the CPU has 5-level paging.
    pub(crate) la57: Option<bool>,
    /// `--example`: this kernel of examples/.
    pub(crate) example: Option<String>,
    /// `--append`: words for the kernel's command line.
    pub(crate) append: Vec<String>,
    /// `--gdb`: wait for a debugger before the first instruction.
    pub(crate) gdb: bool,
    /// `--icount`: count instructions, so that every run is the same.
    pub(crate) icount: bool,
    /// `--accel`: what executes the machine's instructions.
    pub(crate) accel: AccelChoice,
    /// What is built with what.
    pub(crate) host: HostOptions,
}

/// `--accel`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum AccelChoice {
    /// KVM where it works well, else TCG.
    #[default]
    Auto,
    /// KVM or nothing.
    Kvm,
    /// TCG.
    Tcg,
}

/// The options of `test`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct TestOptions {
    /// `--all`: every configuration, not only the covering set.
    pub(crate) all: bool,
    /// Only steps whose name contains this.
    pub(crate) filter: Option<String>,
    /// What is built with what.
    pub(crate) host: HostOptions,
}

/// The options of `bench`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct BenchOptions {
    /// Only this bench.
    pub(crate) name: Option<String>,
    /// `--json`: rows for a program instead of tables for a reader.
    pub(crate) json: bool,
    /// `--peer`: where a peer that is not a crate lies.
    pub(crate) peer: Option<PathBuf>,
    /// `--realtime`: how throughput grows with a second CPU, in host time.
    pub(crate) realtime: bool,
    /// What is built with what.
    pub(crate) host: HostOptions,
}

/// Options that every verb takes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct HostOptions {
    /// `--no-install`: change nothing on this machine.
    pub(crate) no_install: bool,
    /// `--toolchain`: this way to `core` for bare metal and no other.
    pub(crate) toolchain: Option<Way>,
}

const VERBS: [&str; 4] = ["run", "test", "bench", "help"];
const HOST_OPTIONS: [&str; 3] = ["--no-install", "--toolchain", "--help"];
const RUN_OPTIONS: [&str; 9] = [
    "--example",
    "--mem",
    "--smp",
    "--la57",
    "--no-la57",
    "--append",
    "--gdb",
    "--icount",
    "--accel",
];
const TEST_OPTIONS: [&str; 1] = ["--all"];
const BENCH_OPTIONS: [&str; 3] = ["--json", "--peer", "--realtime"];

/// Reads the words after the program's name.
pub(crate) fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Verb> {
    let mut parser = Parser::from_args(words);
    match next(&mut parser)? {
        None => Ok(Verb::Help(Topic::All)),
        Some(Typed::Option(name)) if name == "--help" || name == "-h" => Ok(Verb::Help(Topic::All)),
        Some(Typed::Option(name)) => Err(Failure::usage(format!(
            "expected a verb before {name}: run, test or bench"
        ))),
        Some(Typed::Word(word)) => match word.as_str() {
            "run" => parse_run(&mut parser),
            "test" => parse_test(&mut parser),
            "bench" => parse_bench(&mut parser),
            "help" => Ok(Verb::Help(Topic::All)),
            _ => Err(Failure::usage(format!(
                "no verb is called \"{word}\"{}. All of them: run, test, bench, help",
                hint(&word, &VERBS)
            ))),
        },
    }
}

fn parse_run(parser: &mut Parser) -> Result<Verb> {
    let mut options = RunOptions::default();
    while let Some(typed) = next(parser)? {
        let name = match typed {
            Typed::Option(name) => name,
            Typed::Word(word) => {
                return Err(Failure::usage(format!(
                    "run: \"{word}\" is not an option; words for the kernel go to --append"
                )));
            }
        };
        match name.as_str() {
            "--help" | "-h" => return Ok(Verb::Help(Topic::Run)),
            "--mem" => options.mem_mib = Some(mebibytes(&value(parser, "--mem")?)?),
            "--smp" => options.cpus = Some(cpus(&value(parser, "--smp")?)?),
            "--la57" => options.la57 = one_way(options.la57, true)?,
            "--no-la57" => options.la57 = one_way(options.la57, false)?,
            "--example" => options.example = Some(example(value(parser, "--example")?)?),
            "--append" => options.append.push(value(parser, "--append")?),
            "--gdb" => options.gdb = true,
            "--icount" => options.icount = true,
            "--accel" => options.accel = accel(&value(parser, "--accel")?)?,
            _ => host_option(parser, "run", &name, &RUN_OPTIONS, &mut options.host)?,
        }
    }
    refuse_nonsense(&options)?;
    Ok(Verb::Run(options))
}

fn parse_test(parser: &mut Parser) -> Result<Verb> {
    let mut options = TestOptions::default();
    while let Some(typed) = next(parser)? {
        match typed {
            Typed::Word(word) => set_once(&mut options.filter, word, "test")?,
            Typed::Option(name) => match name.as_str() {
                "--help" | "-h" => return Ok(Verb::Help(Topic::Test)),
                "--all" => options.all = true,
                _ => host_option(parser, "test", &name, &TEST_OPTIONS, &mut options.host)?,
            },
        }
    }
    Ok(Verb::Test(options))
}

fn parse_bench(parser: &mut Parser) -> Result<Verb> {
    let mut options = BenchOptions::default();
    while let Some(typed) = next(parser)? {
        match typed {
            Typed::Word(word) => set_once(&mut options.name, word, "bench")?,
            Typed::Option(name) => match name.as_str() {
                "--help" | "-h" => return Ok(Verb::Help(Topic::Bench)),
                "--json" => options.json = true,
                "--realtime" => options.realtime = true,
                "--peer" => options.peer = Some(PathBuf::from(value(parser, "--peer")?)),
                _ => host_option(parser, "bench", &name, &BENCH_OPTIONS, &mut options.host)?,
            },
        }
    }
    Ok(Verb::Bench(options))
}

/// An option that every verb takes, or the error that names the nearest one.
fn host_option(
    parser: &mut Parser,
    verb: &str,
    name: &str,
    own: &[&str],
    host: &mut HostOptions,
) -> Result {
    match name {
        "--no-install" => host.no_install = true,
        "--toolchain" => host.toolchain = Some(way(&value(parser, "--toolchain")?)?),
        _ => {
            let known: Vec<&str> = own.iter().chain(&HOST_OPTIONS).copied().collect();
            return Err(Failure::usage(format!(
                "{verb}: no option is called \"{name}\"{}. All of them: {}",
                hint(name, &known),
                known.join(" ")
            )));
        }
    }
    Ok(())
}

/// One thing on the command line, owned, so that the parser is free again.
enum Typed {
    /// An option with its dashes.
    Option(String),
    /// Anything else.
    Word(String),
}

fn next(parser: &mut Parser) -> Result<Option<Typed>> {
    let arg = parser
        .next()
        .map_err(|error| Failure::usage(error.to_string()))?;
    Ok(Some(match arg {
        None => return Ok(None),
        Some(Arg::Long(name)) => Typed::Option(format!("--{name}")),
        Some(Arg::Short(name)) => Typed::Option(format!("-{name}")),
        Some(Arg::Value(word)) => Typed::Word(text(word)?),
    }))
}

fn value(parser: &mut Parser, option: &str) -> Result<String> {
    let value = parser
        .value()
        .map_err(|_| Failure::usage(format!("{option} needs a value after it")))?;
    text(value)
}

fn text(word: OsString) -> Result<String> {
    word.string()
        .map_err(|error| Failure::usage(error.to_string()))
}

fn set_once(slot: &mut Option<String>, word: String, verb: &str) -> Result {
    match slot {
        Some(first) => Err(Failure::usage(format!(
            "{verb}: one name at a time, not \"{first}\" and \"{word}\""
        ))),
        None => {
            *slot = Some(word);
            Ok(())
        }
    }
}

fn one_way(before: Option<bool>, now: bool) -> Result<Option<bool>> {
    if before == Some(!now) {
        return Err(Failure::usage(
            "run: --la57 and --no-la57 exclude each other",
        ));
    }
    Ok(Some(now))
}

/// Refuses combinations that cannot mean anything, before anything is built.
fn refuse_nonsense(options: &RunOptions) -> Result {
    if options.icount && options.accel == AccelChoice::Kvm {
        return Err(Failure::usage(
            "run: --icount counts in TCG only, --accel kvm excludes it; drop one",
        ));
    }
    if options.example.is_some() && !options.append.is_empty() {
        return Err(Failure::usage(
            "run: --example boots a kernel that takes no words, --append has some; drop one",
        ));
    }
    if options.icount && options.cpus.is_some_and(|cpus| cpus > 1) {
        return Err(Failure::usage(
            "run: --icount repeats exactly on one CPU only, --smp asks for more; drop one",
        ));
    }
    Ok(())
}

/// A size of memory as QEMU and Linux write it: `64M`, `5G`; a bare number counts MiB.
fn mebibytes(text: &str) -> Result<u64> {
    let wrong = || {
        Failure::usage(format!(
            "run: --mem {text} is not a size; write it as 64M or 5G (1M to 1024G, whole MiB)"
        ))
    };
    let (digits, unit) = match text.char_indices().last() {
        Some((at, 'M' | 'm')) => (&text[..at], 1),
        Some((at, 'G' | 'g')) => (&text[..at], 1024),
        _ => (text, 1),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    number
        .checked_mul(unit)
        .filter(|mib| (1..=1 << 20).contains(mib))
        .ok_or_else(wrong)
}

fn cpus(text: &str) -> Result<u32> {
    text.parse()
        .ok()
        .filter(|cpus| (1..=255).contains(cpus))
        .ok_or_else(|| {
            Failure::usage(format!(
                "run: --smp {text} is not a number of CPUs from 1 to 255"
            ))
        })
}

fn example(name: String) -> Result<String> {
    if EXAMPLES.contains(&name.as_str()) {
        return Ok(name);
    }
    Err(Failure::usage(format!(
        "run: no example is called \"{name}\"{}. All of them: {}",
        hint(&name, &EXAMPLES),
        EXAMPLES.join(" ")
    )))
}

fn accel(text: &str) -> Result<AccelChoice> {
    match text {
        "auto" => Ok(AccelChoice::Auto),
        "kvm" => Ok(AccelChoice::Kvm),
        "tcg" => Ok(AccelChoice::Tcg),
        _ => Err(Failure::usage(format!(
            "run: no accelerator is called \"{text}\"{}. All of them: auto kvm tcg",
            hint(text, &["auto", "kvm", "tcg"])
        ))),
    }
}

fn way(text: &str) -> Result<Way> {
    Way::ALL
        .into_iter()
        .find(|way| way.name() == text)
        .ok_or_else(|| {
            let names = Way::ALL.map(Way::name);
            Failure::usage(format!(
                "no toolchain is called \"{text}\"{}. All of them: {}",
                hint(text, &names),
                names.join(" ")
            ))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(line: &str) -> Result<Verb> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[track_caller]
    fn refused(line: &str, message: &str) {
        let failure = typed(line).expect_err(line);
        assert_eq!(failure.to_string(), format!("kspace: {message}"));
        assert_eq!(failure.status(), 2);
    }

    #[test]
    fn run_takes_its_options() {
        let Verb::Run(options) = typed("run --mem 5G --smp=2 --no-la57 --append nokaslr").unwrap()
        else {
            panic!("not a run")
        };
        assert_eq!(options.mem_mib, Some(5120));
        assert_eq!(options.cpus, Some(2));
        assert_eq!(options.la57, Some(false));
        assert_eq!(options.append, ["nokaslr"]);
    }

    #[test]
    fn test_and_bench_take_one_name() {
        let Verb::Test(options) = typed("test --all oracle").unwrap() else {
            panic!("not a test")
        };
        assert!(options.all);
        assert_eq!(options.filter.as_deref(), Some("oracle"));
        let Verb::Bench(options) = typed("bench paging --json").unwrap() else {
            panic!("not a bench")
        };
        assert!(options.json);
        assert_eq!(options.name.as_deref(), Some("paging"));
        refused("test a b", "test: one name at a time, not \"a\" and \"b\"");
    }

    #[test]
    fn unknown_words_name_the_nearest() {
        refused(
            "tset",
            "no verb is called \"tset\"; nearest: test. All of them: run, test, bench, help",
        );
        refused(
            "test --al",
            "test: no option is called \"--al\"; nearest: --all. All of them: --all --no-install --toolchain --help",
        );
        refused(
            "run --accel kmv",
            "run: no accelerator is called \"kmv\"; nearest: kvm. All of them: auto kvm tcg",
        );
        refused(
            "run --example multiboot",
            "run: no example is called \"multiboot\"; nearest: multiboot2. All of them: multiboot2",
        );
        refused("--mem", "expected a verb before --mem: run, test or bench");
    }

    #[test]
    fn nonsense_is_refused_before_anything_is_built() {
        refused(
            "run --la57 --no-la57",
            "run: --la57 and --no-la57 exclude each other",
        );
        refused(
            "run --icount --accel kvm",
            "run: --icount counts in TCG only, --accel kvm excludes it; drop one",
        );
        refused(
            "run --icount --smp 2",
            "run: --icount repeats exactly on one CPU only, --smp asks for more; drop one",
        );
        refused(
            "run --example multiboot2 --append nokaslr",
            "run: --example boots a kernel that takes no words, --append has some; drop one",
        );
        refused("run --mem", "--mem needs a value after it");
        refused(
            "run --smp 0",
            "run: --smp 0 is not a number of CPUs from 1 to 255",
        );
        for size in [
            "",
            "M",
            "0",
            "0M",
            "-1",
            "1T",
            "18446744073709551615G",
            "2000000G",
        ] {
            refused(
                &format!("run --mem={size}"),
                &format!(
                    "run: --mem {size} is not a size; write it as 64M or 5G (1M to 1024G, whole MiB)"
                ),
            );
        }
    }
}
