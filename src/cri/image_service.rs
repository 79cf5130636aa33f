//! ImageService. A method that is missing here returns Unimplemented, by the default method of the generated trait.

use std::sync::Arc;

use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};

use super::Cri;
use super::batches::streamed;
use super::log::{answered, listed};
use crate::api::v1::image_service_server::ImageService;
use crate::api::v1::*;

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl ImageService for Cri {
    async fn list_images(self: Arc<Self>, request: Request<ListImagesRequest>) -> Answer<ListImagesResponse> {
        listed(self.node.images.list_images(request.into_inner()), "StreamImages")
    }

    async fn stream_images(
        self: Arc<Self>,
        request: Request<StreamImagesRequest>,
    ) -> Answer<BoxStream<StreamImagesResponse>> {
        let filter = request.into_inner().filter;
        let all = self.node.images.list_images(ListImagesRequest { filter });
        streamed(all.map(|all| all.images), |images| StreamImagesResponse { images })
    }

    async fn image_status(self: Arc<Self>, request: Request<ImageStatusRequest>) -> Answer<ImageStatusResponse> {
        answered(self.node.images.image_status(request.into_inner()).await)
    }

    async fn pull_image(self: Arc<Self>, request: Request<PullImageRequest>) -> Answer<PullImageResponse> {
        let request = request.into_inner();
        self.logged("PullImage", self.node.images.pull_image(request)).await
    }

    async fn remove_image(self: Arc<Self>, request: Request<RemoveImageRequest>) -> Answer<RemoveImageResponse> {
        let request = request.into_inner();
        self.logged("RemoveImage", self.node.images.remove_image(request)).await
    }

    async fn image_fs_info(self: Arc<Self>, request: Request<ImageFsInfoRequest>) -> Answer<ImageFsInfoResponse> {
        answered(self.node.images.image_fs_info(request.into_inner()).await)
    }
}
