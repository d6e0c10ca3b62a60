//! Why handshakes fail, in classes few enough for a metric's label.

use rustls::Error;

use super::handshake::HandshakeError;

/// The class of a failed handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeFailure {
    /// The client sent an error alert: often, it does not trust the certificate.
    Alert,
    /// The client closed or lost the connection.
    Abandoned,
    /// The client and the server have no version, cipher suite, group or protocol in common.
    Incompatible,
    /// The client's certificate is missing or not accepted.
    ClientCertificate,
    /// What the client sent breaks the rules of TLS.
    Malformed,
    /// It was not complete within the handshake deadline.
    Timeout,
    /// The server gave it up: a limit was reached, or it ends.
    Aborted,
    /// The server could not continue.
    Internal,
}

impl HandshakeFailure {
    /// All classes, in the order of their indices.
    pub const ALL: [Self; 8] = [
        Self::Alert,
        Self::Abandoned,
        Self::Incompatible,
        Self::ClientCertificate,
        Self::Malformed,
        Self::Timeout,
        Self::Aborted,
        Self::Internal,
    ];

    /// Returns the value of the metric label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Alert => "alert",
            Self::Abandoned => "abandoned",
            Self::Incompatible => "incompatible",
            Self::ClientCertificate => "client_certificate",
            Self::Malformed => "malformed",
            Self::Timeout => "timeout",
            Self::Aborted => "aborted",
            Self::Internal => "internal",
        }
    }

    /// Returns the position in [`Self::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }
}

impl HandshakeError {
    /// Returns the class of this error.
    pub fn failure(&self) -> HandshakeFailure {
        use HandshakeFailure as Failure;
        match self {
            Self::Closed => Failure::Abandoned,
            Self::TooLong | Self::BadHeader(_) => Failure::Malformed,
            Self::Protocol(error) => match error {
                Error::AlertReceived(_) => Failure::Alert,
                Error::PeerIncompatible(_) | Error::NoApplicationProtocol => Failure::Incompatible,
                Error::NoCertificatesPresented
                | Error::InvalidCertificate(_)
                | Error::InvalidCertRevocationList(_)
                | Error::UnsupportedNameType => Failure::ClientCertificate,
                Error::InappropriateMessage { .. }
                | Error::InappropriateHandshakeMessage { .. }
                | Error::InvalidEncryptedClientHello(_)
                | Error::InvalidMessage(_)
                | Error::PeerMisbehaved(_)
                | Error::PeerSentOversizedRecord
                | Error::DecryptError => Failure::Malformed,
                _ => Failure::Internal,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::{AlertDescription as Alert, CertificateError, PeerIncompatible};

    #[test]
    fn classes_have_names_of_their_own_in_the_order_of_their_indices() {
        for (index, class) in HandshakeFailure::ALL.into_iter().enumerate() {
            assert_eq!(class.index(), index);
            let same = HandshakeFailure::ALL.iter().filter(|other| other.name() == class.name());
            assert_eq!(same.count(), 1, "{class:?}");
        }
    }

    #[test]
    fn errors_are_classed_by_their_cause() {
        let incompatible = PeerIncompatible::NoCipherSuitesInCommon;
        for (error, expected) in [
            (HandshakeError::Closed, HandshakeFailure::Abandoned),
            (HandshakeError::TooLong, HandshakeFailure::Malformed),
            (HandshakeError::BadHeader(Alert::DecodeError), HandshakeFailure::Malformed),
            (Error::AlertReceived(Alert::UnknownCA).into(), HandshakeFailure::Alert),
            (Error::PeerIncompatible(incompatible).into(), HandshakeFailure::Incompatible),
            (Error::NoCertificatesPresented.into(), HandshakeFailure::ClientCertificate),
            (
                Error::InvalidCertificate(CertificateError::Expired).into(),
                HandshakeFailure::ClientCertificate,
            ),
            (Error::DecryptError.into(), HandshakeFailure::Malformed),
            (Error::FailedToGetRandomBytes.into(), HandshakeFailure::Internal),
        ] {
            assert_eq!(error.failure(), expected, "{error}");
        }
    }
}
