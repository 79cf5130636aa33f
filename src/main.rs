//! The `pontoon` executable: parses the flags, runs the daemon or `pontoon top`, and returns the exit code.

use std::process::ExitCode;

use clap::Parser;
use pontoon::config::{Cli, Command};
use pontoon::{cli, daemon, sys};

fn main() -> ExitCode {
    sys::heap::share_one_arena();
    let command = Cli::parse().command;
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("pontoon: the kernel gives no threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = match command {
        Command::Serve(flags) => runtime.block_on(daemon::serve(flags)),
        Command::Top(flags) => runtime.block_on(cli::top::run(flags)),
    };
    // Background work, such as waiting for the exits of tasks, does not end by itself.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pontoon: {error:#}");
            ExitCode::FAILURE
        }
    }
}
