//! Writes the OpenAPI document of the gateway.

use std::io::{self, Write as _};

fn main() -> io::Result<()> {
    let document = adit_gateway::document();
    writeln!(io::stdout().lock(), "{document:#}")
}
