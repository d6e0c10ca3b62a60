//! The HTTP API of apps, which their backends' Pusher libraries call: `/apps/{id}/…`. Requests are
//! signed with the app's secret.

mod channels;
mod events;
mod signed;

use axum::Router;
use axum::routing::{get, post};

use super::State;

/// Returns the routes of the API.
pub(in crate::control::admin) fn routes() -> Router<State> {
    Router::new()
        .route("/apps/{app}/events", post(events::publish))
        .route("/apps/{app}/batch_events", post(events::publish_batch))
        .route("/apps/{app}/channels", get(channels::list))
        .route("/apps/{app}/channels/{channel}", get(channels::describe))
        .route("/apps/{app}/channels/{channel}/users", get(channels::list_users))
        .route("/apps/{app}/connections", get(channels::count_connections))
        .route("/apps/{app}/users/{user}/terminate_connections", post(channels::end_user))
}
