//! What float32 arithmetic, centred features and a few coordinates of them say of a distance: bounds,
//! proved where they are computed.

mod centering;
mod error;
mod leading;
mod pca;
mod projection;
mod sphere;

pub(crate) use centering::{Centering, CenteringSlot, CentredQuery};
pub(crate) use error::error_bounds;
pub(crate) use leading::leading_directions;
pub(crate) use projection::{PcaProjection, Projected, ProjectedRows, ProjectionSlot, TINY};
pub(crate) use sphere::Sphere;
