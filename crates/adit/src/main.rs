//! The adit program.

use std::process::ExitCode;

fn main() -> ExitCode {
    adit::run(std::env::args_os().collect())
}
