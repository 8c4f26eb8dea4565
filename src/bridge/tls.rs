//! Streams encrypted with TLS 1.3, by rustls.
//!
//! Without certificates, a node shows a *raw public key* (RFC 7250). That its private key is the node's shows by the
//! proofs of the shared key, which come after: they cover what only the two ends of this very connection know, so that
//! somebody in between, who has two connections of its own, is found out.

use std::{fmt, io, path::Path, sync::Arc};

use sha2::{Digest, Sha256};
use tokio_rustls::{
    TlsAcceptor, TlsConnector, client, rustls,
    rustls::{
        ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
        client::{
            Resumption,
            danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        },
        crypto::{
            CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature, verify_tls13_signature_with_raw_key,
        },
        pki_types::{
            CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
            pem::PemObject,
        },
        server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage},
        sign::CertifiedKey,
    },
    server,
};

use super::{
    encryption::Sealed,
    frame::Integrity,
    hello::HelloError,
    stream::{ReadHalf, Stream, WriteHalf},
};

/// What both ends of an encrypted connection know and nobody else (RFC 9266); the proofs of the key are made for it, so
/// that they hold for this very connection.
const BINDING_LABEL: &[u8] = b"EXPORTER-Channel-Binding";

/// In front of the 32 bytes of an Ed25519 private key, this is the form of RFC 8410.
const ED25519_PKCS8: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];

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
        Ok(Self { config: without_resumption(config) })
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

/// The key pair that a node shows to clients which want no certificate.
#[derive(Clone)]
pub(crate) struct RawIdentity {
    config: Arc<ServerConfig>,
    digest: [u8; 32],
}

/// By which a public key is known again.
fn digest_of(key: &[u8]) -> [u8; 32] {
    Sha256::digest(key).into()
}

impl RawIdentity {
    /// That of these 32 bytes, an Ed25519 private key.
    pub(crate) fn of_seed(seed: &[u8; 32]) -> Result<Self, TlsError> {
        let pkcs8 = PrivatePkcs8KeyDer::from([&ED25519_PKCS8[..], seed].concat());
        let key = ring::sign::any_eddsa_type(&pkcs8).map_err(unusable)?;
        let missing = || TlsError::Unusable { message: "the key has no public part".to_owned() };
        let public = key.public_key().ok_or_else(missing)?;
        let shown = CertificateDer::from(public.as_ref().to_vec());
        let digest = digest_of(&shown);
        let resolver = AlwaysResolvesServerRawPublicKeys::new(Arc::new(CertifiedKey::new(vec![shown], key)));
        let config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(unusable)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(resolver));
        Ok(Self { config: without_resumption(config), digest })
    }

    /// The digest of the public key.
    pub(crate) fn digest(&self) -> [u8; 32] {
        self.digest
    }
}

/// No session goes on over another connection: each begins with a whole handshake, and so has secrets of its own.
fn without_resumption(mut config: ServerConfig) -> Arc<ServerConfig> {
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Arc::new(config)
}

/// Takes the raw public key of this digest, or any. That the node has its private key is verified as always.
#[derive(Debug)]
struct RawKey {
    pin: Option<[u8; 32]>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for RawKey {
    fn verify_server_cert(
        &self,
        key: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.pin.is_some_and(|pin| pin != digest_of(key.as_ref())) {
            return Err(rustls::Error::General("this is not the node that handed out the key".to_owned()));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("raw public keys are for TLS 1.3".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature_with_raw_key(
            message,
            &SubjectPublicKeyInfoDer::from(key.as_ref()),
            signature,
            algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// Encrypts a stream as its client: with a certificate that `trust` accepts, else with whatever raw key the node shows.
pub(super) async fn connect(
    stream: Box<dyn Stream>,
    trust: Option<&TlsTrust>,
    host: &str,
    pin: Option<[u8; 32]>,
) -> Result<Sealed, HelloError> {
    let unfit = |error: &dyn fmt::Display| HelloError::NotEncrypted(error.to_string());
    let (mut config, name) = match trust {
        Some(TlsTrust { config }) => (ClientConfig::clone(config), ServerName::try_from(host.to_owned())),
        None => {
            let config = ClientConfig::builder_with_provider(provider())
                .with_protocol_versions(&[&rustls::version::TLS13])
                .map_err(|error| unfit(&error))?
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(RawKey { pin, provider: provider() }))
                .with_no_client_auth();
            (config, ServerName::try_from("node.invalid".to_owned()))
        }
    };
    config.enable_sni &= trust.is_some();
    config.resumption = Resumption::disabled();
    let name = name.map_err(|error| unfit(&format_args!("`{host}` names no host: {error}")))?;
    let connected = TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(failed)?;
    let binding = binding_of(connected.get_ref().1)?;
    Ok(Sealed { binding, stream: Box::new(connected), integrity: Integrity::Cipher })
}

/// Encrypts a stream as its node: with the certificate, if there is one to show, else with the raw key.
pub(super) async fn accept(
    stream: Box<dyn Stream>,
    certificate: Option<&TlsIdentity>,
    raw: &RawIdentity,
) -> Result<Sealed, HelloError> {
    let config = certificate.map_or(&raw.config, |identity| &identity.config);
    let accepted = TlsAcceptor::from(Arc::clone(config)).accept(stream).await.map_err(failed)?;
    let binding = binding_of(accepted.get_ref().1)?;
    Ok(Sealed { binding, stream: Box::new(accepted), integrity: Integrity::Cipher })
}

fn binding_of<Data>(connection: &rustls::ConnectionCommon<Data>) -> Result<Vec<u8>, HelloError> {
    let binding = connection.export_keying_material(vec![0; 32], BINDING_LABEL, None);
    binding.map_err(|error| HelloError::NotEncrypted(error.to_string()))
}

/// Rustls found fault with the peer; or the stream broke off.
fn failed(error: io::Error) -> HelloError {
    if error.get_ref().is_some_and(|error| error.is::<rustls::Error>()) {
        return HelloError::NotEncrypted(error.to_string());
    }
    error.into()
}

impl Stream for client::TlsStream<Box<dyn Stream>> {
    fn halves(self: Box<Self>) -> (ReadHalf, WriteHalf) {
        let (read, write) = tokio::io::split(*self);
        (Box::new(read), Box::new(write))
    }
}

impl Stream for server::TlsStream<Box<dyn Stream>> {
    fn halves(self: Box<Self>) -> (ReadHalf, WriteHalf) {
        let (read, write) = tokio::io::split(*self);
        (Box::new(read), Box::new(write))
    }
}
