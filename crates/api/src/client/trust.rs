//! Whom the client takes for the gateway over TLS: one whose certificate an authority of this host signed, or one whose
//! certificate, or whose authority's, it was given.

use std::io;
use std::sync::Arc;

use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::client::{VerifierBuilderError, WebPkiServerVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

use super::ClientError;

/// What makes TLS connections; `given` is PEM text, none stands for the authorities of this host.
pub(super) fn connector(given: Option<&[u8]>) -> Result<TlsConnector, ClientError> {
    let provider = Arc::new(ring::default_provider());
    let given = given.map(certificates).transpose()?;
    let mut roots = RootCertStore::empty();
    let authorities = match &given {
        Some(given) => given.clone(),
        None => rustls_native_certs::load_native_certs().certs,
    };
    roots.add_parsable_certificates(authorities);
    if roots.is_empty() {
        return Err(ClientError::Target(
            "this host trusts no certificate authority: install the package `ca-certificates`, or give the gateway's certificate with \
             `--ca-file FILE`"
                .to_owned(),
        ));
    }
    let unusable = |error: VerifierBuilderError| {
        ClientError::Target(format!("the certificates cannot be used: {error}"))
    };
    let authorities =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .map_err(unusable)?;
    let verifier = Verifier {
        given: given.unwrap_or_default(),
        authorities,
    };
    let mut settings = builder(provider)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    settings.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(settings)))
}

/// Why a handshake failed, and the way out.
pub(super) fn explain(error: &io::Error, host: &str) -> (String, String) {
    let reason = error
        .get_ref()
        .and_then(|error| error.downcast_ref::<Error>());
    if let Some(Error::InvalidCertificate(reason)) = reason {
        return explain_certificate(reason, host);
    }
    if let Some(Error::InvalidMessage(_)) = reason {
        return (
            "it does not speak TLS".to_owned(),
            "is it the right port? A gateway on loopback without a certificate is reached with http://".to_owned(),
        );
    }
    (
        format!("no TLS connection: {error}"),
        "is it the right port, and a gateway?".to_owned(),
    )
}

/// Takes the very certificates that it was given, whatever their names and dates, besides what authorities signed.
#[derive(Debug)]
struct Verifier {
    given: Vec<CertificateDer<'static>>,
    authorities: Arc<WebPkiServerVerifier>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.given.iter().any(|given| given == certificate) {
            return Ok(ServerCertVerified::assertion());
        }
        self.authorities
            .verify_server_cert(certificate, intermediates, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.authorities
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.authorities
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.authorities.supported_verify_schemes()
    }
}

fn builder(
    provider: Arc<CryptoProvider>,
) -> Result<
    tokio_rustls::rustls::ConfigBuilder<ClientConfig, tokio_rustls::rustls::WantsVerifier>,
    ClientError,
> {
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| ClientError::Target(format!("TLS cannot be used: {error}")))
}

fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, ClientError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    match read {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(ClientError::Target(
            "the file of --ca-file holds no certificate: it takes PEM, which begins with `-----BEGIN CERTIFICATE-----`".to_owned(),
        )),
        Err(error) => Err(ClientError::Target(format!(
            "the file of --ca-file is not PEM: {error}"
        ))),
    }
}

fn explain_certificate(reason: &CertificateError, host: &str) -> (String, String) {
    let expired = matches!(
        reason,
        CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. }
    );
    let wrong_name = matches!(
        reason,
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }
    );
    if expired {
        return (
            format!("its certificate is not valid at this time: {reason}"),
            "renew the certificate on the gateway, or set the clock of this host (`date`)"
                .to_owned(),
        );
    }
    if wrong_name {
        return (
            format!("its certificate is not for `{host}`: {reason}"),
            "call it by a name that the certificate is for, or give the certificate itself with `--ca-file FILE`".to_owned(),
        );
    }
    // A bad signature is that of another who bears the name of one whom we trust, as every gateway's own certificate does.
    if matches!(
        reason,
        CertificateError::UnknownIssuer | CertificateError::BadSignature
    ) {
        return (
            "its certificate is signed by nobody whom this host trusts".to_owned(),
            "give the certificate, or that of its authority, with `--ca-file FILE`; one that the gateway made is api-certificate.pem in \
             its state directory, and `adit status` there shows its fingerprint"
                .to_owned(),
        );
    }
    (
        format!("its certificate cannot be used: {reason}"),
        "give the gateway another certificate".to_owned(),
    )
}
