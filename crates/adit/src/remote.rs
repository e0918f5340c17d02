//! A gateway elsewhere: its address, the file with the token, the certificate to trust.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use adit_api::client::Client;
use anyhow::Context as _;

use crate::output::Failure;

/// A token has 69 characters, a bundle of authorities a few hundred kilobytes.
const LARGEST: u64 = 4 << 20;

/// What the command line says about it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Remote<'a> {
    pub(crate) url: Option<&'a str>,
    pub(crate) token_file: Option<&'a Path>,
    pub(crate) ca_file: Option<&'a Path>,
}

impl Remote<'_> {
    /// A client for it; none when it is the gateway of this host that is meant.
    pub(crate) fn client(self) -> Result<Option<Client>, Failure> {
        let Some(url) = self.url else {
            if self.token_file.is_some() || self.ca_file.is_some() {
                return Err(Failure::Refused {
                    code: "invalid-request",
                    message: "--token-file and --ca-file are for a gateway elsewhere".to_owned(),
                    hint: "add `--url https://HOST:PORT`; without, the socket of this host's gateway is used, which needs no token"
                        .to_owned(),
                });
            }
            return Ok(None);
        };
        let token = self.token_file.map(token).transpose()?;
        let authorities = match self.ca_file {
            Some(path) => Some(read(path, "certificate file")?.0),
            None => None,
        };
        let client = Client::remote(url, token.as_deref(), authorities.as_deref())?;
        Ok(Some(client))
    }
}

fn token(path: &Path) -> Result<String, Failure> {
    let (bytes, mode) = read(path, "token file")?;
    if mode & 0o007 != 0 {
        return Err(Failure::Refused {
            code: "token-file-open",
            message: format!(
                "the token file {} can be read by everybody (mode {:o})",
                path.display(),
                mode & 0o777
            ),
            hint: format!("run: chmod 600 {}", path.display()),
        });
    }
    let text = String::from_utf8(bytes)
        .with_context(|| format!("the token file {} is not text", path.display()))?;
    Ok(text)
}

/// The content of a file, and its mode.
fn read(path: &Path, what: &str) -> Result<(Vec<u8>, u32), Failure> {
    let name = || format!("read the {what} {}", path.display());
    let file = File::open(path).with_context(name)?;
    let mode = file.metadata().with_context(name)?.mode();
    let mut bytes = Vec::new();
    file.take(LARGEST)
        .read_to_end(&mut bytes)
        .with_context(name)?;
    Ok((bytes, mode))
}
