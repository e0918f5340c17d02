//! Writes the man pages of all commands, and the completions of shells, to the folder that is its argument.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap_complete::Shell;

const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

/// What the page of the program itself tells besides its options, as roff.
const FILES: &str = "\
.SH FILES
.TP
.I /etc/adit/gateway.toml
the configuration of the gateway
.TP
.I /var/lib/adit
its state and its keys
.TP
.I /run/adit/adit.sock
where it listens for this command
.SH EXIT STATUS
.TP
0
done
.TP
1
refused or failed
.TP
2
wrong usage
.TP
3
the gateway is not reachable
.SH SEE ALSO
.BR wg (8),
.BR nft (8),
and
.I /usr/share/doc/adit
";

fn main() -> Result<()> {
    let folder: PathBuf = std::env::args_os()
        .nth(1)
        .context("usage: manual FOLDER")?
        .into();
    let pages = folder.join("man");
    fs::create_dir_all(&pages).context("create the folder of the man pages")?;
    clap_mangen::generate_to(adit::command(), &pages).context("write the man pages")?;
    OpenOptions::new()
        .append(true)
        .open(pages.join("adit.1"))
        .and_then(|mut page| page.write_all(FILES.as_bytes()))
        .context("write adit.1")?;

    let completions = folder.join("completions");
    fs::create_dir_all(&completions).context("create the folder of the completions")?;
    for shell in SHELLS {
        clap_complete::generate_to(shell, &mut adit::command(), "adit", &completions)
            .with_context(|| format!("write the completions for {shell}"))?;
    }
    Ok(())
}
