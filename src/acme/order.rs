//! One order, from the account to the certificate.

use std::time::Duration;

use instant_acme::{
    Account, AuthorizationStatus, ChallengeType, Identifier, NewAccount, NewOrder, OrderStatus,
    RetryPolicy,
};

use super::http::Client;
use super::store::Store;
use super::{AcmeSettings, Challenge};
use crate::tls::challenges::Challenges;

/// How long an authority may take to check all names, and to issue.
const PATIENCE: Duration = Duration::from_mins(2);

/// Orders a certificate; returns its key and chain as PEM.
///
/// # Errors
/// What the authority, the network or the folder refused.
pub(super) fn run(
    settings: &AcmeSettings,
    store: &Store,
    challenges: &Challenges,
) -> Result<String, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.map_err(|error| format!("cannot start a runtime: {error}"))?;
    runtime.block_on(order(settings, store, challenges))
}

async fn order(
    settings: &AcmeSettings,
    store: &Store,
    challenges: &Challenges,
) -> Result<String, String> {
    let account = account(settings, store).await?;
    let names: Vec<_> = settings.names.iter().cloned().map(Identifier::Dns).collect();
    let order = account.new_order(&NewOrder::new(&names)).await;
    let mut order = order.map_err(|error| format!("the authority rejected the order: {error}"))?;
    answer_challenges(&mut order, settings, challenges).await?;
    let retries = RetryPolicy::new().timeout(PATIENCE);
    let reason = match order.poll_ready(&retries).await {
        Ok(OrderStatus::Ready) => None,
        Ok(_) => Some(find_reasons(&mut order).await),
        Err(error) => Some(error.to_string()),
    };
    if let Some(reason) = reason {
        let (label, port) = describe(settings.challenge);
        return Err(format!(
            "the names were not verified by {label}: {reason}; the authority must reach this \
             server at port {port} of each name"
        ));
    }
    let issued = async {
        let key = order.finalize().await?;
        let chain = order.poll_certificate(&retries).await?;
        Ok::<_, instant_acme::Error>(format!("{key}{chain}"))
    };
    issued.await.map_err(|error| format!("the authority issued no certificate: {error}"))
}

/// The account of the folder at this authority, made on the first use.
async fn account(settings: &AcmeSettings, store: &Store) -> Result<Account, String> {
    let builder =
        || Ok::<_, String>(Account::builder_with_http(Box::new(Client::new(&settings.ca)?)));
    if let Some(kept) = store.read_account(&settings.directory)? {
        let restored = builder()?.from_credentials(kept).await;
        return restored.map_err(|error| format!("{} failed: {error}", settings.directory));
    }
    let contact = format!("mailto:{}", settings.contact);
    let contacts = [contact.as_str()];
    let new = NewAccount {
        contact: if settings.contact.is_empty() { &[] } else { &contacts },
        terms_of_service_agreed: true,
        only_return_existing: false,
    };
    let created = builder()?.create(&new, settings.directory.clone(), None).await;
    let (account, credentials) = created
        .map_err(|error| format!("cannot create an account at {}: {error}", settings.directory))?;
    store.write_account(&settings.directory, &credentials)?;
    Ok(account)
}

/// Prepares the answers to the challenges, and reports that they can be asked for.
async fn answer_challenges(
    order: &mut instant_acme::Order,
    settings: &AcmeSettings,
    challenges: &Challenges,
) -> Result<(), String> {
    let kind = match settings.challenge {
        Challenge::TlsAlpn01 => ChallengeType::TlsAlpn01,
        Challenge::Http01 => ChallengeType::Http01,
    };
    let failed = |error: instant_acme::Error| format!("cannot read the challenges: {error}");
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.map_err(failed)?;
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        let name = authorization.identifier().to_string();
        let Some(mut challenge) = authorization.challenge(kind.clone()) else {
            return Err(format!(
                "the authority offers no {} for {name}; set another acme.challenge",
                describe(settings.challenge).0
            ));
        };
        let proof = challenge.key_authorization();
        match settings.challenge {
            Challenge::TlsAlpn01 => challenges.set_certificate(&name, proof.digest().as_ref())?,
            Challenge::Http01 => challenges.set_page(&challenge.token, proof.as_str()),
        }
        challenge.set_ready().await.map_err(failed)?;
    }
    Ok(())
}

/// Why an order became invalid: the authority says so at each challenge.
async fn find_reasons(order: &mut instant_acme::Order) -> String {
    let mut reasons = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        // The state that is kept may be older than the verdict.
        if authorization.refresh().await.is_err() {
            continue;
        }
        let name = authorization.identifier().to_string();
        let errors = authorization.challenges.iter().filter_map(|one| one.error.as_ref());
        reasons.extend(errors.map(|error| format!("{name}: {error}")));
    }
    reasons.join("; ")
}

/// The name of a challenge, and the port at which the authority asks.
fn describe(challenge: Challenge) -> (&'static str, u16) {
    match challenge {
        Challenge::TlsAlpn01 => ("tls-alpn-01", 443),
        Challenge::Http01 => ("http-01", 80),
    }
}
