//! The names in clients' certificates, and the keys that they stand for.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use x509_cert::certificate::{CertificateInner, Raw};
use x509_cert::der::asn1::{Any, ObjectIdentifier};
use x509_cert::der::{Decode, Tag, Tagged};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// The type of a common name (RFC 4519 2.3).
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

/// Which key a client's certificate stands for.
///
/// The name of a certificate is its common name; without one it is the first DNS name, URI or e-mail
/// address of its alternative names. By default it is the name of the key. If there are entries, only
/// the names in them stand for a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientNames(Vec<(String, Arc<str>)>);

impl ClientNames {
    /// Each entry is a name in certificates, and the name of the key that it stands for.
    pub fn new(entries: Vec<(String, Arc<str>)>) -> Self {
        Self(entries)
    }

    /// The names of keys in the entries.
    pub fn keys(&self) -> impl Iterator<Item = &Arc<str>> {
        self.0.iter().map(|(_, key)| key)
    }

    /// The name of the key that a certificate stands for; `None` if it stands for no key.
    pub(crate) fn key_of(&self, certificate: &CertificateDer<'_>) -> Option<Arc<str>> {
        let name = name_of(certificate)?;
        if self.0.is_empty() {
            return Some(name.into());
        }
        let mut entries = self.0.iter();
        let entry = entries.find(|(subject, _)| *subject == name);
        entry.map(|(_, key)| key.clone())
    }
}

/// The name of a certificate, that is, of its owner.
fn name_of(certificate: &CertificateDer<'_>) -> Option<String> {
    let certificate = CertificateInner::<Raw>::from_der(certificate).ok()?;
    let certificate = certificate.tbs_certificate;
    let mut attributes = certificate
        .subject
        .0
        .iter()
        .flat_map(|names| names.0.iter());
    let common = attributes.find(|attribute| attribute.oid == COMMON_NAME);
    let common = common.and_then(|attribute| text(&attribute.value));
    if let Some(common) = common.filter(|name| !name.is_empty()) {
        return Some(common.to_owned());
    }
    let (_, SubjectAltName(names)) = certificate.get().ok()??;
    names.iter().find_map(|name| match name {
        GeneralName::DnsName(name)
        | GeneralName::UniformResourceIdentifier(name)
        | GeneralName::Rfc822Name(name) => Some(name.to_string()),
        _ => None,
    })
}

/// A text in one of the usual types of strings.
fn text(value: &Any) -> Option<&str> {
    match value.tag() {
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String => {
            std::str::from_utf8(value.value()).ok()
        }
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

    use super::*;

    fn certificate(common: Option<&str>, alternatives: Vec<SanType>) -> CertificateDer<'static> {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = DistinguishedName::new();
        if let Some(common) = common {
            parameters
                .distinguished_name
                .push(DnType::CommonName, common);
        }
        parameters.subject_alt_names = alternatives;
        let key = KeyPair::generate().unwrap();
        parameters.self_signed(&key).unwrap().der().clone()
    }

    #[test]
    fn the_common_name_comes_before_the_first_alternative_name() {
        let dns = || SanType::DnsName("pod.example".try_into().unwrap());
        let uri = || SanType::URI("spiffe://cluster/ada".try_into().unwrap());
        let mail = || SanType::Rfc822Name("ada@example.org".try_into().unwrap());
        let address = || SanType::IpAddress([10, 0, 0, 1].into());
        for (common, alternatives, expected) in [
            (Some("ada"), vec![dns()], Some("ada")),
            (None, vec![uri(), dns()], Some("spiffe://cluster/ada")),
            (Some(""), vec![address(), mail()], Some("ada@example.org")),
            (None, vec![dns(), uri()], Some("pod.example")),
            (None, vec![address()], None),
            (None, vec![], None),
        ] {
            let certificate = certificate(common, alternatives);
            let key = ClientNames::default().key_of(&certificate);
            assert_eq!(key.as_deref(), expected);
        }
    }

    #[test]
    fn with_entries_only_their_names_stand_for_a_key() {
        let names = ClientNames::new(vec![("spiffe://cluster/ada".to_owned(), "ada".into())]);
        let uri = SanType::URI("spiffe://cluster/ada".try_into().unwrap());
        let key = names.key_of(&certificate(None, vec![uri]));
        assert_eq!(key.as_deref(), Some("ada"));
        assert_eq!(names.key_of(&certificate(Some("ada"), vec![])), None);
    }
}
