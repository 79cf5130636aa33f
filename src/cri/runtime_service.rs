//! RuntimeService. A method that is missing here returns Unimplemented, by the default method of the generated trait.

use std::convert::Infallible;
use std::future::ready;
use std::sync::Arc;

use futures_util::StreamExt as _;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};

use super::batches::streamed;
use super::log::{answered, fits, listed};
use super::{Cri, exec_sync_reply};
use crate::api::v1::runtime_service_server::RuntimeService;
use crate::api::v1::*;
use crate::runtime;

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl RuntimeService for Cri {
    async fn version(self: Arc<Self>, _: Request<VersionRequest>) -> Answer<VersionResponse> {
        answered::<_, Infallible>(Ok(runtime::version(&self.node)))
    }

    async fn status(self: Arc<Self>, request: Request<StatusRequest>) -> Answer<StatusResponse> {
        answered::<_, Infallible>(Ok(runtime::status(&self.node, request.get_ref())))
    }

    async fn runtime_config(self: Arc<Self>, _: Request<RuntimeConfigRequest>) -> Answer<RuntimeConfigResponse> {
        answered::<_, Infallible>(Ok(runtime::runtime_config(&self.node)))
    }

    async fn update_runtime_config(
        self: Arc<Self>,
        request: Request<UpdateRuntimeConfigRequest>,
    ) -> Answer<UpdateRuntimeConfigResponse> {
        let request = request.into_inner();
        self.logged("UpdateRuntimeConfig", runtime::update_runtime_config(&self.node, request)).await
    }

    async fn run_pod_sandbox(self: Arc<Self>, request: Request<RunPodSandboxRequest>) -> Answer<RunPodSandboxResponse> {
        let request = request.into_inner();
        self.logged("RunPodSandbox", runtime::run_pod_sandbox(&self.node, request)).await
    }

    async fn stop_pod_sandbox(
        self: Arc<Self>,
        request: Request<StopPodSandboxRequest>,
    ) -> Answer<StopPodSandboxResponse> {
        let request = request.into_inner();
        self.logged("StopPodSandbox", runtime::stop_pod_sandbox(&self.node, request)).await
    }

    async fn remove_pod_sandbox(
        self: Arc<Self>,
        request: Request<RemovePodSandboxRequest>,
    ) -> Answer<RemovePodSandboxResponse> {
        let request = request.into_inner();
        self.logged("RemovePodSandbox", runtime::remove_pod_sandbox(&self.node, request)).await
    }

    async fn pod_sandbox_status(
        self: Arc<Self>,
        request: Request<PodSandboxStatusRequest>,
    ) -> Answer<PodSandboxStatusResponse> {
        answered(runtime::pod_sandbox_status(&self.node, request.get_ref()).await)
    }

    async fn list_pod_sandbox(
        self: Arc<Self>,
        request: Request<ListPodSandboxRequest>,
    ) -> Answer<ListPodSandboxResponse> {
        let reply = runtime::list_pod_sandbox(&self.node, request.get_ref());
        listed::<_, Infallible>(Ok(reply), "StreamPodSandboxes")
    }

    async fn stream_pod_sandboxes(
        self: Arc<Self>,
        request: Request<StreamPodSandboxesRequest>,
    ) -> Answer<BoxStream<StreamPodSandboxesResponse>> {
        let filter = request.into_inner().filter;
        let all = runtime::list_pod_sandbox(&self.node, &ListPodSandboxRequest { filter });
        streamed::<_, _, Infallible>(Ok(all.items), StreamPodSandboxesResponse::from)
    }

    async fn create_container(
        self: Arc<Self>,
        request: Request<CreateContainerRequest>,
    ) -> Answer<CreateContainerResponse> {
        let request = request.into_inner();
        self.logged("CreateContainer", runtime::create_container(&self.node, request)).await
    }

    async fn start_container(
        self: Arc<Self>,
        request: Request<StartContainerRequest>,
    ) -> Answer<StartContainerResponse> {
        let request = request.into_inner();
        self.logged("StartContainer", runtime::start_container(&self.node, request)).await
    }

    async fn stop_container(self: Arc<Self>, request: Request<StopContainerRequest>) -> Answer<StopContainerResponse> {
        let request = request.into_inner();
        self.logged("StopContainer", runtime::stop_container(&self.node, request)).await
    }

    async fn remove_container(
        self: Arc<Self>,
        request: Request<RemoveContainerRequest>,
    ) -> Answer<RemoveContainerResponse> {
        let request = request.into_inner();
        self.logged("RemoveContainer", runtime::remove_container(&self.node, request)).await
    }

    async fn list_containers(
        self: Arc<Self>,
        request: Request<ListContainersRequest>,
    ) -> Answer<ListContainersResponse> {
        let reply = runtime::list_containers(&self.node, request.get_ref());
        listed::<_, Infallible>(Ok(reply), "StreamContainers")
    }

    async fn stream_containers(
        self: Arc<Self>,
        request: Request<StreamContainersRequest>,
    ) -> Answer<BoxStream<StreamContainersResponse>> {
        let filter = request.into_inner().filter;
        let all = runtime::list_containers(&self.node, &ListContainersRequest { filter });
        streamed::<_, _, Infallible>(Ok(all.items), StreamContainersResponse::from)
    }

    async fn container_status(
        self: Arc<Self>,
        request: Request<ContainerStatusRequest>,
    ) -> Answer<ContainerStatusResponse> {
        answered(runtime::container_status(&self.node, request.get_ref()))
    }

    async fn get_container_events(
        self: Arc<Self>,
        _: Request<GetEventsRequest>,
    ) -> Answer<BoxStream<ContainerEventResponse>> {
        let events = runtime::get_container_events(&self.node).filter(|event| ready(fits(event)));
        Ok(Response::new(Box::pin(events.map(Ok))))
    }

    async fn update_container_resources(
        self: Arc<Self>,
        request: Request<UpdateContainerResourcesRequest>,
    ) -> Answer<UpdateContainerResourcesResponse> {
        let request = request.into_inner();
        self.logged("UpdateContainerResources", runtime::update_container_resources(&self.node, request)).await
    }

    async fn update_pod_sandbox_resources(
        self: Arc<Self>,
        request: Request<UpdatePodSandboxResourcesRequest>,
    ) -> Answer<UpdatePodSandboxResourcesResponse> {
        let request = request.into_inner();
        self.logged("UpdatePodSandboxResources", runtime::update_pod_sandbox_resources(&self.node, request)).await
    }

    async fn reopen_container_log(
        self: Arc<Self>,
        request: Request<ReopenContainerLogRequest>,
    ) -> Answer<ReopenContainerLogResponse> {
        let request = request.into_inner();
        self.logged("ReopenContainerLog", runtime::reopen_container_log(&self.node, request)).await
    }

    async fn container_stats(
        self: Arc<Self>,
        request: Request<ContainerStatsRequest>,
    ) -> Answer<ContainerStatsResponse> {
        answered(runtime::container_stats(&self.node, request.get_ref()).await)
    }

    async fn list_container_stats(
        self: Arc<Self>,
        request: Request<ListContainerStatsRequest>,
    ) -> Answer<ListContainerStatsResponse> {
        let stats = runtime::list_container_stats(&self.node, request.get_ref().filter.as_ref()).await;
        listed::<_, Infallible>(Ok(ListContainerStatsResponse { stats }), "StreamContainerStats")
    }

    async fn stream_container_stats(
        self: Arc<Self>,
        request: Request<StreamContainerStatsRequest>,
    ) -> Answer<BoxStream<StreamContainerStatsResponse>> {
        let stats = runtime::list_container_stats(&self.node, request.get_ref().filter.as_ref()).await;
        let reply = |container_stats| StreamContainerStatsResponse { container_stats };
        streamed::<_, _, Infallible>(Ok(stats), reply)
    }

    async fn pod_sandbox_stats(
        self: Arc<Self>,
        request: Request<PodSandboxStatsRequest>,
    ) -> Answer<PodSandboxStatsResponse> {
        answered(runtime::pod_sandbox_stats(&self.node, request.get_ref()).await)
    }

    async fn list_pod_sandbox_stats(
        self: Arc<Self>,
        request: Request<ListPodSandboxStatsRequest>,
    ) -> Answer<ListPodSandboxStatsResponse> {
        let stats = runtime::list_pod_sandbox_stats(&self.node, request.get_ref().filter.as_ref()).await;
        listed::<_, Infallible>(Ok(ListPodSandboxStatsResponse { stats }), "StreamPodSandboxStats")
    }

    async fn stream_pod_sandbox_stats(
        self: Arc<Self>,
        request: Request<StreamPodSandboxStatsRequest>,
    ) -> Answer<BoxStream<StreamPodSandboxStatsResponse>> {
        let stats = runtime::list_pod_sandbox_stats(&self.node, request.get_ref().filter.as_ref()).await;
        let reply = |pod_sandbox_stats| StreamPodSandboxStatsResponse { pod_sandbox_stats };
        streamed::<_, _, Infallible>(Ok(stats), reply)
    }

    async fn list_metric_descriptors(
        self: Arc<Self>,
        _: Request<ListMetricDescriptorsRequest>,
    ) -> Answer<ListMetricDescriptorsResponse> {
        answered::<_, Infallible>(Ok(runtime::list_metric_descriptors(&self.node)))
    }

    async fn list_pod_sandbox_metrics(
        self: Arc<Self>,
        _: Request<ListPodSandboxMetricsRequest>,
    ) -> Answer<ListPodSandboxMetricsResponse> {
        let pod_metrics = runtime::list_pod_sandbox_metrics(&self.node).await;
        listed::<_, Infallible>(Ok(ListPodSandboxMetricsResponse { pod_metrics }), "StreamPodSandboxMetrics")
    }

    async fn stream_pod_sandbox_metrics(
        self: Arc<Self>,
        _: Request<StreamPodSandboxMetricsRequest>,
    ) -> Answer<BoxStream<StreamPodSandboxMetricsResponse>> {
        let metrics = runtime::list_pod_sandbox_metrics(&self.node).await;
        let reply = |pod_sandbox_metrics| StreamPodSandboxMetricsResponse { pod_sandbox_metrics };
        streamed::<_, _, Infallible>(Ok(metrics), reply)
    }

    async fn exec_sync(self: Arc<Self>, request: Request<ExecSyncRequest>) -> Answer<ExecSyncResponse> {
        let request = request.into_inner();
        let reply = self.logged_if_failed("ExecSync", runtime::exec_sync(&self.node, request)).await;
        reply.map(exec_sync_reply::response)
    }

    async fn exec(self: Arc<Self>, request: Request<ExecRequest>) -> Answer<ExecResponse> {
        let request = request.into_inner();
        self.logged("Exec", async { runtime::exec(&self.node, &self.streaming, request) }).await
    }

    async fn attach(self: Arc<Self>, request: Request<AttachRequest>) -> Answer<AttachResponse> {
        let request = request.into_inner();
        self.logged("Attach", async { runtime::attach(&self.node, &self.streaming, &request) }).await
    }

    async fn port_forward(self: Arc<Self>, request: Request<PortForwardRequest>) -> Answer<PortForwardResponse> {
        let request = request.into_inner();
        self.logged("PortForward", async { runtime::port_forward(&self.node, &self.streaming, request) }).await
    }
}
