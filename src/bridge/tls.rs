//! Streams encrypted with TLS 1.3, by rustls.

use std::{fmt, io, path::Path, sync::Arc};

use futures::future::BoxFuture;
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsAcceptor, TlsConnector, client, rustls,
    rustls::{
        ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    },
    server,
};

use super::{
    stream::{Dial, DialError, DialErrorKind, Dialled, ReadHalf, Stream, WriteHalf},
    tcp,
};

/// What both ends of an encrypted connection know and nobody else (RFC 9266); the proofs of the key are made for it, so
/// that they hold for this very connection.
const BINDING_LABEL: &[u8] = b"EXPORTER-Channel-Binding";

/// A node's certificate, and the private key that goes with it. With the feature `tls`.
#[derive(Clone)]
pub struct TlsIdentity {
    config: Arc<ServerConfig>,
}

impl TlsIdentity {
    /// The certificate chain and the private key in these PEM files.
    ///
    /// # Errors
    ///
    /// [`TlsError`].
    pub fn from_pem_files(certificates: impl AsRef<Path>, key: impl AsRef<Path>) -> Result<Self, TlsError> {
        Self::from_pem(&read(certificates.as_ref())?, &read(key.as_ref())?)
    }

    /// The certificate chain and the private key of these PEM texts.
    ///
    /// # Errors
    ///
    /// [`TlsError`].
    pub fn from_pem(certificates: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        let chain = certificates_of(certificates)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| TlsError::Pem { message: error.to_string() })?;
        let config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(unusable)?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(unusable)?;
        Ok(Self { config: Arc::new(config) })
    }

    /// Encrypts a connection that was accepted.
    pub(crate) fn accept(&self, stream: TcpStream) -> BoxFuture<'static, io::Result<Dialled>> {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.config));
        Box::pin(async move {
            let stream = acceptor.accept(stream).await?;
            let binding = stream.get_ref().1.export_keying_material(vec![0; 32], BINDING_LABEL, None);
            Ok(Dialled { binding: binding.map_err(io::Error::other)?, stream: Box::new(stream) })
        })
    }
}

impl fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsIdentity").finish_non_exhaustive()
    }
}

/// Which certificates a client takes for its node's. With the feature `tls`.
#[derive(Clone)]
pub struct TlsTrust {
    config: Arc<ClientConfig>,
}

impl TlsTrust {
    /// The certificate in this PEM file and no other, whatever names it bears.
    ///
    /// # Errors
    ///
    /// [`TlsError`].
    pub fn pinned_file(certificate: impl AsRef<Path>) -> Result<Self, TlsError> {
        Self::pinned(&read(certificate.as_ref())?)
    }

    /// The first certificate of this PEM text and no other, whatever names it bears.
    ///
    /// # Errors
    ///
    /// [`TlsError`].
    pub fn pinned(certificate: &[u8]) -> Result<Self, TlsError> {
        let certificate = certificates_of(certificate)?.swap_remove(0);
        let verifier = Arc::new(Pinned { certificate, provider: provider() });
        let config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(unusable)?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        Ok(Self { config: Arc::new(config) })
    }

    /// Any certificate for the host connected to that one of the authorities in this PEM file vouches for.
    ///
    /// # Errors
    ///
    /// [`TlsError`].
    pub fn authorities_file(certificates: impl AsRef<Path>) -> Result<Self, TlsError> {
        Self::authorities(&read(certificates.as_ref())?)
    }

    /// Any certificate for the host connected to that one of the authorities in this PEM text vouches for.
    ///
    /// # Errors
    ///
    /// [`TlsError`].
    pub fn authorities(certificates: &[u8]) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates_of(certificates)? {
            roots.add(certificate).map_err(unusable)?;
        }
        let config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(unusable)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { config: Arc::new(config) })
    }
}

impl fmt::Debug for TlsTrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsTrust").finish_non_exhaustive()
    }
}

/// Why a certificate or a key cannot be used. With the feature `tls`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{path} cannot be read: {message}")]
    Unreadable {
        /// The file.
        path: String,
        /// What the operating system said.
        message: String,
    },
    /// It is not PEM, or holds nothing of what is looked for.
    #[error("no certificate or key in PEM form was found: {message}")]
    Pem {
        /// What was wrong.
        message: String,
    },
    /// They do not belong together, or are of a kind that is not known.
    #[error("the certificate or key cannot be used: {message}")]
    Unusable {
        /// What was wrong.
        message: String,
    },
}

fn unusable(error: rustls::Error) -> TlsError {
    TlsError::Unusable { message: error.to_string() }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path)
        .map_err(|error| TlsError::Unreadable { path: path.display().to_string(), message: error.to_string() })
}

fn certificates_of(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let certificates = certificates.map_err(|error| TlsError::Pem { message: error.to_string() })?;
    if certificates.is_empty() {
        return Err(TlsError::Pem { message: "the text holds no certificate".to_owned() });
    }
    Ok(certificates)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// Trusts one certificate. That the node has its private key is verified as always.
#[derive(Debug)]
struct Pinned {
    certificate: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if *certificate == self.certificate {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(rustls::CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Connects to `host:port` and encrypts the connection.
pub(crate) struct TlsDial {
    pub address: String,
    pub trust: TlsTrust,
}

impl Dial for TlsDial {
    fn dial(&self) -> BoxFuture<'static, Result<Dialled, DialError>> {
        let (address, connector) = (self.address.clone(), TlsConnector::from(Arc::clone(&self.trust.config)));
        Box::pin(async move {
            let host = address.rsplit_once(':').map_or(&*address, |(host, _)| host).trim_matches(['[', ']']).to_owned();
            let name = ServerName::try_from(host).map_err(|error| DialError {
                message: format!("`{address}` names no host: {error}"),
                kind: DialErrorKind::Address,
            })?;
            let stream = tcp::connect(&address, true).await?;
            let stream = connector.connect(name, stream).await.map_err(|error| {
                // Rustls found the peer to be another one; or the stream broke off.
                let untrusted = error.get_ref().is_some_and(|error| error.is::<rustls::Error>());
                let kind = if untrusted { DialErrorKind::Untrusted } else { DialErrorKind::Other };
                DialError { message: format!("the connection could not be encrypted: {error}"), kind }
            })?;
            let binding = stream.get_ref().1.export_keying_material(vec![0; 32], BINDING_LABEL, None);
            let binding =
                binding.map_err(|error| DialError { message: error.to_string(), kind: DialErrorKind::Other })?;
            Ok(Dialled { stream: Box::new(stream), binding })
        })
    }

    fn place(&self) -> &str {
        &self.address
    }
}

impl Stream for client::TlsStream<TcpStream> {
    fn halves(self: Box<Self>) -> (ReadHalf, WriteHalf) {
        let (read, write) = tokio::io::split(*self);
        (Box::new(read), Box::new(write))
    }
}

impl Stream for server::TlsStream<TcpStream> {
    fn halves(self: Box<Self>) -> (ReadHalf, WriteHalf) {
        let (read, write) = tokio::io::split(*self);
        (Box::new(read), Box::new(write))
    }
}
