//! The certificate of the API: files that somebody renews, or one of its own that is made once.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rcgen::{CertificateParams, DnType, KeyPair};
use sha2::{Digest as _, Sha256};
use tokio_rustls::rustls::client::verify_server_name;
use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{self};

/// Names of our own files in the state directory.
const OWN_CERTIFICATE: &str = "api-certificate.pem";
const OWN_KEY: &str = "api-key.pem";

/// Chains of certificates are a few kilobytes; whatever is much longer is another file.
const LARGEST: u64 = 1 << 20;

/// Where certificate and key are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Files {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

/// What is wrong with the files.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificateError {
    /// One cannot be read or written.
    #[error("{role} {}: cannot {operation} it: {source}", path.display())]
    Io {
        /// Which of the two.
        role: Role,
        /// The file.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// One holds something else.
    #[error("{role} {}: {reason}", path.display())]
    Malformed {
        /// Which of the two.
        role: Role,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Everybody can read the key.
    #[error("{role} {}: it can be read by everybody (mode {mode:o}). Run: chmod o-rwx {}", path.display(), path.display())]
    Open {
        /// Which of the two.
        role: Role,
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The two belong to different pairs.
    #[error("`tls-key` {} is not the key of `tls-certificate` {}", key.display(), certificate.display())]
    Mismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// No certificate could be made.
    #[error("cannot make a certificate for the API: {0}")]
    Make(rcgen::Error),
}

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The chain of certificates.
    Certificate,
    /// The private key.
    Key,
}

impl std::fmt::Display for Role {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Certificate => "the API's certificate (`tls-certificate`)",
            Self::Key => "the API's private key (`tls-key`)",
        })
    }
}

/// The certificate that new connections get; it can be exchanged.
#[derive(Debug)]
pub(crate) struct Identity {
    files: Files,
    provider: Arc<CryptoProvider>,
    current: RwLock<Arc<CertifiedKey>>,
}

/// Tells one content of the files from another.
pub(crate) type Stamp = [Option<(u64, i64, i64, u64)>; 2];

impl Identity {
    /// Reads the files.
    pub(crate) fn load(
        files: Files,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, CertificateError> {
        let current = RwLock::new(Arc::new(read_pair(&files, &provider)?));
        Ok(Self {
            files,
            provider,
            current,
        })
    }

    /// Reads them again; what was there stays in use when they are not good.
    pub(crate) fn renew(&self) -> Result<(), CertificateError> {
        let renewed = Arc::new(read_pair(&self.files, &self.provider)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = renewed;
        Ok(())
    }

    /// What the files look like from outside.
    pub(crate) fn stamp(&self) -> Stamp {
        [&self.files.certificate, &self.files.key].map(|path| {
            let metadata = fs::metadata(path).ok()?;
            let (time, part) = (metadata.mtime(), metadata.mtime_nsec());
            Some((metadata.ino(), time, part, metadata.size()))
        })
    }

    /// SHA-256 of the certificate, as browsers and `openssl x509 -fingerprint -sha256` write it.
    pub(crate) fn fingerprint(&self) -> String {
        let current = self.current();
        let bytes = current.cert.first().map(CertificateDer::as_ref);
        let digest = Sha256::digest(bytes.unwrap_or_default());
        let parts: Vec<String> = digest.iter().map(|byte| format!("{byte:02X}")).collect();
        parts.join(":")
    }

    /// Those of some names that the certificate is not for.
    pub(crate) fn lacks<'a>(&self, names: &'a [String]) -> Vec<&'a str> {
        let current = self.current();
        let parsed = current
            .cert
            .first()
            .and_then(|first| ParsedCertificate::try_from(first).ok());
        let Some(parsed) = parsed else {
            return Vec::new();
        };
        let is_for = |name: &&str| {
            ServerName::try_from(*name).is_ok_and(|name| verify_server_name(&parsed, &name).is_ok())
        };
        let names = names.iter().map(String::as_str);
        names.filter(|name| !is_for(name)).collect()
    }

    fn current(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ResolvesServerCert for Identity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

/// Our own files; what is missing of them is made, for these names and addresses.
pub(crate) fn load_or_create(
    directory: &Path,
    names: &BTreeSet<String>,
) -> Result<Files, CertificateError> {
    let files = Files {
        certificate: directory.join(OWN_CERTIFICATE),
        key: directory.join(OWN_KEY),
    };
    if files.key.exists() && files.certificate.exists() {
        return Ok(files);
    }
    // The key first: a crash in between leaves a key, to which the certificate is made at the next start.
    let key = if files.key.exists() {
        let text = read(&files.key, Role::Key)?;
        KeyPair::from_pem(&String::from_utf8_lossy(&text)).map_err(|error| {
            CertificateError::Malformed {
                role: Role::Key,
                path: files.key.clone(),
                reason: format!("{error}; remove it to have a new one made"),
            }
        })?
    } else {
        let key = KeyPair::generate().map_err(CertificateError::Make)?;
        write(&files.key, Role::Key, &key.serialize_pem(), 0o600)?;
        key
    };
    let names: Vec<String> = names.iter().cloned().collect();
    let mut wish = CertificateParams::new(names).map_err(CertificateError::Make)?;
    wish.distinguished_name
        .push(DnType::CommonName, "Adit gateway");
    let certificate = wish.self_signed(&key).map_err(CertificateError::Make)?;
    write(
        &files.certificate,
        Role::Certificate,
        &certificate.pem(),
        0o644,
    )?;
    Ok(files)
}

fn read_pair(files: &Files, provider: &CryptoProvider) -> Result<CertifiedKey, CertificateError> {
    let malformed = |role, path: &Path, reason: String| CertificateError::Malformed {
        role,
        path: path.to_owned(),
        reason,
    };
    let path = &files.certificate;
    let text = read(path, Role::Certificate)?;
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|error| malformed(Role::Certificate, path, format!("it is not PEM: {error}")))?;
    let first = chain.first().ok_or_else(|| {
        let reason = "there is no PEM block `CERTIFICATE` in it";
        malformed(Role::Certificate, path, reason.to_owned())
    })?;
    ParsedCertificate::try_from(first)
        .map_err(|error| malformed(Role::Certificate, path, error.to_string()))?;
    let path = &files.key;
    let text = read(path, Role::Key)?;
    let key = PrivateKeyDer::from_pem_slice(&text).map_err(|error| {
        let reason = format!("there is no private key in PEM in it: {error}");
        malformed(Role::Key, path, reason)
    })?;
    CertifiedKey::from_der(chain, key, provider).map_err(|error| {
        if matches!(error, rustls::Error::InconsistentKeys(_)) {
            let (certificate, key) = (files.certificate.clone(), files.key.clone());
            return CertificateError::Mismatch { certificate, key };
        }
        malformed(Role::Key, path, error.to_string())
    })
}

fn read(path: &Path, role: Role) -> Result<Vec<u8>, CertificateError> {
    let failed = |operation| {
        move |source| CertificateError::Io {
            role,
            path: path.to_owned(),
            operation,
            source,
        }
    };
    let file = File::open(path).map_err(failed("open"))?;
    let mode = file.metadata().map_err(failed("look at"))?.mode() & 0o777;
    if role == Role::Key && mode & 0o007 != 0 {
        return Err(CertificateError::Open {
            role,
            path: path.to_owned(),
            mode,
        });
    }
    let mut bytes = Vec::new();
    file.take(LARGEST)
        .read_to_end(&mut bytes)
        .map_err(failed("read"))?;
    Ok(bytes)
}

fn write(path: &Path, role: Role, text: &str, mode: u32) -> Result<(), CertificateError> {
    let failed = |operation| {
        move |source| CertificateError::Io {
            role,
            path: path.to_owned(),
            operation,
            source,
        }
    };
    // Written beside and renamed, so that a crash leaves a whole file or none.
    let temporary = path.with_extension("pem.new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&temporary)
        .map_err(failed("create"))?;
    file.write_all(text.as_bytes()).map_err(failed("write"))?;
    file.sync_all().map_err(failed("write"))?;
    fs::rename(&temporary, path).map_err(failed("rename"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use tokio_rustls::rustls::crypto::ring;

    use super::*;

    fn identity(files: &Files) -> Result<Identity, CertificateError> {
        Identity::load(files.clone(), Arc::new(ring::default_provider()))
    }

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_certificate_is_made_once_and_what_a_crash_left_out_is_made_up_for() {
        let directory = tempfile::tempdir().unwrap();
        let wanted = names(&["gw.example.com", "203.0.113.2", "2001:db8::2"]);
        let files = load_or_create(directory.path(), &wanted).unwrap();
        let first = identity(&files).unwrap();
        let mode = fs::metadata(&files.key).unwrap().mode() & 0o777;
        assert_eq!(mode, 0o600);
        let asked = [
            "gw.example.com",
            "203.0.113.2",
            "2001:db8::2",
            "evil.example",
        ];
        assert_eq!(first.lacks(&asked.map(str::to_owned)), ["evil.example"]);

        load_or_create(directory.path(), &names(&["other.example.com"])).unwrap();
        let again = identity(&files).unwrap();
        assert_eq!(again.fingerprint(), first.fingerprint());

        fs::remove_file(&files.certificate).unwrap();
        let key = fs::read(&files.key).unwrap();
        load_or_create(directory.path(), &wanted).unwrap();
        assert_eq!(fs::read(&files.key).unwrap(), key, "the key is another");
        assert_ne!(identity(&files).unwrap().fingerprint(), first.fingerprint());
    }

    #[test]
    fn what_is_wrong_with_the_files_is_told_with_file_and_field() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let good = load_or_create(one.path(), &names(&["a"])).unwrap();
        let rival = load_or_create(other.path(), &names(&["a"])).unwrap();
        let bad = one.path().join("bad.pem");
        fs::write(
            &bad,
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        )
        .unwrap();
        let open = one.path().join("open.pem");
        fs::copy(&good.key, &open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o604)).unwrap();
        fs::set_permissions(&bad, fs::Permissions::from_mode(0o600)).unwrap();
        let (certificate, key) = ("`tls-certificate`", "`tls-key`");
        for (first, second, field, part) in [
            (&bad, &good.key, certificate, "bad.pem"),
            (&good.key, &good.key, certificate, "CERTIFICATE"),
            (&one.path().join("none"), &good.key, certificate, "none"),
            (&good.certificate, &one.path().join("none"), key, "none"),
            (&good.certificate, &bad, key, "bad.pem"),
            (&good.certificate, &open, key, "chmod"),
            (&good.certificate, &rival.key, key, "api-certificate.pem"),
        ] {
            let files = Files {
                certificate: first.clone(),
                key: second.clone(),
            };
            let error = identity(&files).unwrap_err().to_string();
            assert!(error.contains(field) && error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_renewed_pair_is_taken_and_a_bad_one_is_not() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let files = load_or_create(one.path(), &names(&["a"])).unwrap();
        let renewed = load_or_create(other.path(), &names(&["a"])).unwrap();
        let identity = identity(&files).unwrap();
        let (before, stamp) = (identity.fingerprint(), identity.stamp());
        fs::rename(&renewed.certificate, &files.certificate).unwrap();
        assert_ne!(identity.stamp(), stamp);
        assert!(matches!(
            identity.renew(),
            Err(CertificateError::Mismatch { .. })
        ));
        assert_eq!(identity.fingerprint(), before);
        fs::rename(&renewed.key, &files.key).unwrap();
        identity.renew().unwrap();
        assert_ne!(identity.fingerprint(), before);
    }
}
