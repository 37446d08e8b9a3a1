//! `cargo xtask`: one door to each chore, the same for people and CI.

mod autobahn;
mod bench;
mod client;
mod compose;
mod demo;
mod mutants;
mod process;
mod test;
mod up;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Chores of this repository
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    after_help = "Examples:\n  cargo xtask demo                 # a Postgres, a load on it, and the page\n  cargo xtask up                   # a Postgres, a Kafka and a schema registry, to try things on\n  cargo xtask test                 # everything\n  cargo xtask test e2e socket      # the end-to-end tests with socket in their names\n  ORACLE_SEED=7 cargo xtask test oracle\n  cargo xtask mutants push         # which wrong changes its tests let pass\n  cargo xtask bench latency"
)]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Debug, Subcommand)]
enum Chore {
    /// Start a private Postgres with the storefront sample, a gentle load on it, and `deltafront run`
    Demo {
        /// Where the page is served
        #[arg(long, default_value = "127.0.0.1:8080")]
        listen: String,
        /// Transactions a second
        #[arg(long, default_value_t = 5.0)]
        rate: f64,
        /// Build with full optimisation (slower to build, quicker to run)
        #[arg(long)]
        release: bool,
    },
    /// Start a private Postgres with the storefront sample, a Kafka and a schema registry, until Ctrl-C
    ///
    /// Prints their addresses as lines `export NAME=VALUE` for another terminal; what else it says goes to stderr. The
    /// first time fetches Kafka from Maven Central; where DELTAFRONT_TEST_KAFKA=host:port names a broker, that one is used.
    #[command(
        after_help = "Examples:\n  cargo xtask up                                 # then copy the lines into another terminal\n  cargo xtask up > /tmp/up.env                   # and there: . /tmp/up.env; psql $STOREFRONT_DB\n  cargo run -- run examples/storefront           # there too: reads the Postgres\n  kcat -b $KAFKA_BOOTSTRAP -L                    # topics; they are made by who writes to them\n  curl $SCHEMA_REGISTRY_URL/subjects"
    )]
    Up,
    /// Set up what the tests need, then run them: all, or one part
    Test {
        /// A part: unit, oracle, e2e, kafka, slt, browser, client; or one that runs only when asked for: compose,
        /// autobahn (half an hour; `autobahn core` a minute)
        part: Option<String>,
        /// Only tests whose names contain this; of autobahn, `core` or cases such as `6.*,7.1.*`
        filter: Option<String>,
    },
    /// Formatting, clippy, documentation and licences: what CI checks before the tests
    Lint {
        /// Format instead of complaining
        #[arg(long)]
        fix: bool,
    },
    /// Make small wrong changes to a crate, and see whether its own tests notice
    ///
    /// Prints the changes that no test noticed, and `figure mutants_caught_CRATE VALUE percent`; fails
    /// below 85. On each core it tries one every two or three seconds, in copies of the tree inside the
    /// target folder; `pipeline` has two thousand. Installs cargo-mutants when it is missing.
    #[command(
        after_help = "Examples:\n  cargo xtask mutants                                # all of them\n  cargo xtask mutants push\n  cargo xtask mutants push --file push/src/json.rs   # what follows the crate goes to cargo-mutants"
    )]
    Mutants {
        /// pipeline, filter, auth or push, all when left out; or connectors, which takes hours
        #[arg(value_name = "CRATE")]
        only: Option<String>,
        /// Passed on to cargo-mutants; the figure is of the mutants that they leave
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Measure; each prints lines `figure NAME VALUE UNIT`
    Bench {
        /// latency, engine, filters, memory, copy, fanout, kafka (or one part of it: reading, latency, writing), or rivals
        what: String,
        /// Passed on
        #[arg(trailing_var_arg = true)]
        arguments: Vec<String>,
    },
    /// Accept what snapshot tests got as what they expect
    Bless,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(error) = process::claim_target_folder() {
        eprintln!("error: {error:#}");
        return ExitCode::FAILURE;
    }
    let done = match cli.chore {
        Chore::Demo { listen, rate, release } => demo::demo(&listen, rate, release),
        Chore::Up => up::up(),
        Chore::Test { part, filter } => test::test(part.as_deref(), filter.as_deref()),
        Chore::Lint { fix } => test::lint(fix),
        Chore::Mutants { only, arguments } => mutants::mutants(only.as_deref(), &arguments),
        Chore::Bench { what, arguments } => bench::bench(&what, &arguments),
        Chore::Bless => test::bless(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
