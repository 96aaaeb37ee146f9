//! `cargo xtask test`: everything a change must pass, one line per check, the count at the end.

mod boot_table;
mod boots;
mod examples;
mod fixmap;
mod hostile_boots;
mod machinery;
mod many_cpus;
mod numa;
mod permissions;
mod report;
mod start_info;
mod steps;
mod text_patch;
mod tidy;
mod vmalloc;
mod vmcoreinfo;

use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::arguments::{HostOptions, TestOptions};
use crate::example::Example;
use crate::failure::{Failure, Result};
use crate::host::packages;
use crate::host::toolchain::{BARE_METAL, THIRTY_TWO_BIT, Toolchain};
use crate::kernel::Kernel;
use crate::nearest::hint;
use crate::oracle::{self, Configuration};
use crate::qemu::machine::QEMU;
use report::{Failed, Outcome, Passed, Report};

/// Runs every check that `options` select.
///
/// # Errors
///
/// When a check fails, the filter selects none, or something is missing that checks need.
pub(crate) fn test(options: &TestOptions) -> Result {
    let (steps, boots) = selected(options)?;
    let context = Context::new(&options.host);
    let report = Report::new();
    // Compilers use all cores by themselves; boots run side by side.
    for check in &steps {
        report.run(&check.name, || (check.run)(&context));
    }
    let next = AtomicUsize::new(0);
    let workers = thread::available_parallelism()
        .map_or(1, usize::from)
        .min(4);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(check) = boots.get(next.fetch_add(1, Ordering::Relaxed)) {
                    report.run(&check.name, || (check.run)(&context));
                }
            });
        }
    });
    report.close()
}

/// Something to run, by a name that a filter selects.
struct Check {
    name: String,
    run: Box<dyn Fn(&Context) -> Outcome + Send + Sync>,
}

impl Check {
    fn new(
        name: impl Into<String>,
        run: impl Fn(&Context) -> Outcome + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            run: Box::new(run),
        }
    }
}

/// The checks before the boots, and the boots.
fn selected(options: &TestOptions) -> Result<(Vec<Check>, Vec<Check>)> {
    let (mut steps, mut boots) = (steps(), boots(options.all));
    if let Some(filter) = &options.filter {
        let names: Vec<String> = steps
            .iter()
            .chain(&boots)
            .map(|check| check.name.clone())
            .collect();
        steps.retain(|check| check.name.contains(filter.as_str()));
        boots.retain(|check| check.name.contains(filter.as_str()));
        if steps.is_empty() && boots.is_empty() {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            return Err(Failure::usage(format!(
                "test: no check's name contains \"{filter}\"{}. All of them:\n  {}",
                hint(filter, &names),
                names.join("\n  ")
            )));
        }
    }
    Ok((steps, boots))
}

fn steps() -> Vec<Check> {
    vec![
        Check::new("format", |_| steps::format()),
        Check::new("tidy", |_| tidy::tidy()),
        Check::new("clippy, host", |_| steps::clippy_host()),
        Check::new("clippy, kernels", |context| {
            steps::clippy_kernels(&context.bare_metal()?)
        }),
        Check::new("documentation", |_| steps::docs()),
        Check::new("host tests", |_| steps::host_tests()),
        Check::new("loom models", |_| steps::loom_models()),
        Check::new("32-bit build", |context| {
            steps::thirty_two_bit(&context.thirty_two_bit()?)
        }),
        Check::new("kernel build", |context| {
            context.kernel().map(|_| Passed::one())
        }),
    ]
}

fn boots(all: bool) -> Vec<Check> {
    let machinery = Check::new("boot machinery", |context| {
        machinery::machinery(&context.qemu()?)
    });
    let table = boot_table::BOOTS
        .iter()
        .copied()
        .flatten()
        .filter(move |case| all || !case.slow);
    let table = table.map(|case| {
        Check::new(format!("boot {}", case.name), move |context| {
            boots::check(case, &context.qemu()?, context.kernel()?)
        })
    });
    let repeated = [
        Check::new("boot KASLR draws anew", |context| {
            boots::draws_anew(&context.qemu()?, context.kernel()?)
        }),
        Check::new("boot repeats exactly when counted", |context| {
            boots::repeats_when_counted(&context.qemu()?, context.kernel()?)
        }),
        Check::new("boot counts pairs of frames", |context| {
            boots::counts_pairs_of_frames(&context.qemu()?, context.kernel()?)
        }),
    ];
    let mut configurations = if all {
        Configuration::all()
    } else {
        Configuration::covering().to_vec()
    };
    configurations.push(Configuration::several_cpus());
    let oracle = configurations.into_iter().map(|configuration| {
        Check::new(format!("oracle {}", configuration.name()), move |context| {
            let agreed = oracle::compare(&configuration, &context.qemu()?, context.kernel()?)?;
            let (leaves, tables) = (agreed.leaves, agreed.tables);
            Ok(Passed::noting(format!("{leaves} entries, {tables} tables")))
        })
    });
    std::iter::once(machinery)
        .chain(table)
        .chain(repeated)
        .chain(numa::checks())
        .chain(vmcoreinfo::checks())
        .chain(examples::checks())
        .chain(oracle)
        .chain(all.then(vmalloc::long_soak))
        .collect()
}

/// What checks share; each part is found or built when the first check needs it.
struct Context {
    install: bool,
    way: Option<crate::host::toolchain::Way>,
    qemu: OnceLock<std::result::Result<PathBuf, String>>,
    kernel: OnceLock<std::result::Result<Kernel, String>>,
    example: OnceLock<std::result::Result<Example, String>>,
}

impl Context {
    fn new(options: &HostOptions) -> Self {
        Self {
            install: !options.no_install,
            way: options.toolchain,
            qemu: OnceLock::new(),
            kernel: OnceLock::new(),
            example: OnceLock::new(),
        }
    }

    fn bare_metal(&self) -> Result<Toolchain> {
        Toolchain::find(BARE_METAL, self.way, self.install)
    }

    fn thirty_two_bit(&self) -> Result<Toolchain> {
        Toolchain::find(THIRTY_TWO_BIT, self.way, self.install)
    }

    fn qemu(&self) -> std::result::Result<PathBuf, Failed> {
        let find = || {
            packages::program(QEMU.0, QEMU.1, self.install).map_err(|failure| failure.to_string())
        };
        self.qemu.get_or_init(find).clone().map_err(Failed::because)
    }

    /// The example multiboot2 on its disc.
    fn example(&self) -> std::result::Result<&Example, Failed> {
        let build = || {
            let built = self
                .bare_metal()
                .and_then(|toolchain| Example::build("multiboot2", &toolchain, self.install));
            built.map_err(|failure| failure.to_string())
        };
        let built = self.example.get_or_init(build).as_ref();
        built.map_err(|reason| Failed::because(reason.clone()))
    }

    fn kernel(&self) -> std::result::Result<&Kernel, Failed> {
        let build = || {
            let built = self
                .bare_metal()
                .and_then(|toolchain| Kernel::build(&toolchain));
            built.map_err(|failure| failure.to_string())
        };
        self.kernel
            .get_or_init(build)
            .as_ref()
            .map_err(|reason| Failed::because(reason.clone()))
    }
}
