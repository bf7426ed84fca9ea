"""Where a worker can be killed: before and after each function that has a side effect, by worker.

tests/faults/test_points.py runs the workers, notes every side effect that they have, and fails where one happens
outside of these functions: then the function that has it is to be named here.
"""

from dataclasses import dataclass

_EVERY_WORKER = (
    "pipeline.foundation.setting_files:is_writable",
    "pipeline.jobs.heartbeat:Heartbeat.take_identity",
    "pipeline.jobs.heartbeat:Heartbeat.beat",
    "pipeline.jobs.heartbeat:Heartbeat.beat_of_host",
    "pipeline.jobs.job_queue:JobQueue.register",
    "pipeline.jobs.job_queue:JobQueue.recover",
    "pipeline.jobs.job_queue:JobQueue._move",
    "pipeline.jobs.job_queue:JobQueue._count",
    "pipeline.jobs.job_queue:JobQueue.settle",
    "pipeline.jobs.job_queue:JobQueue.keep",
    "pipeline.jobs.job_queue:JobQueue.uncount",
    "pipeline.jobs.job_queue:JobQueue.unregister",
    "pipeline.jobs.job_queue:JobQueue.dead_letter",
)
_FINISHING = (
    "pipeline.jobs.batch_completion:finish_batches",
    "pipeline.foundation.scratch:locked",
    "s3_utils:cleanup_scratch",
    "pipeline.store.database:Database.finish_batch",
    "pipeline.jobs.batches:Batches.close",
)
_CONVERTING = (  # also the trial of ffmpeg at the start
    "pipeline.audio.converter:Converter.version",
    "pipeline.audio.converter:Converter.problem",
    "pipeline.audio.converter:Converter._convert",
    "pipeline.audio.decoder:Decoder.sounds",
    "pipeline.audio.decoder:Decoder._command",
    "pipeline.audio.encoder:Encoder.encode",
    "pipeline.audio.encoder:Encoder._command",
    "pipeline.audio.encoder:_remove",
    "pipeline.audio.conversion_report:write",
)
FUNCTIONS: dict[str, tuple[str, ...]] = {
    "transfer": (
        *_EVERY_WORKER,
        "pipeline.jobs.job_queue:JobQueue.retry",
        "pipeline.transfer.local_copies:Copies.clear",
        "pipeline.transfer.local_copies:Copies.sweep",
        "pipeline.transfer.local_copies:Copies.sweep_others",
        "pipeline.transfer.stale_uploads:abort_stale",
        "pipeline.transfer.discovery:Watch._queue",
        "pipeline.transfer.discovery:Watch._leave_word",
        "pipeline.transfer.volumes:Volumes.note",
        "pipeline.jobs.batch_ids:BatchIds.assign",
        "pipeline.transfer.scp:Copy.discard",
        "pipeline.transfer.scp:Copy.remove",
        "pipeline.transfer.scp:Copy._scp",
        "pipeline.transfer.scp:Copy._append",
        "pipeline.transfer.scp:Copy.fetch",
        "pipeline.transfer.scp:Copy.run",
        "pipeline.unpack.compression:_decompress",
        "pipeline.unpack.compression:make_plain",
        "s3_utils:note_source",
        "s3_utils:upload_archive",
        "pipeline.transfer.discovery:Watch.mark",
        "pipeline.transfer.discovery:Watch.forget",
        "pipeline.transfer.ssh:RemoteHost.tidy",
        "pipeline.transfer.originals:Sources.tidy",
        "transfer_worker:Transferrer.upload",
        "transfer_worker:Transferrer.fail_permanently",
    ),
    "unpack": (
        *_EVERY_WORKER,
        *_FINISHING,
        *_CONVERTING,
        "pipeline.jobs.job_queue:JobQueue.give_back",
        "pipeline.jobs.batches:Batches.check_queue",
        "pipeline.jobs.batches:Batches.enter_queue",
        "pipeline.foundation.scratch:free_mb",
        "pipeline.jobs.batches:Batches.adopt",
        "s3_utils:download_archive",
        "pipeline.unpack.compression:_decompress",
        "pipeline.unpack.compression:make_plain",
        "pipeline.store.database:Database.open_batch",
        "pipeline.store.database:Database.describe_files",
        "pipeline.jobs.batches:Batches.open",
        "pipeline.unpack.archive:copy",
        "pipeline.audio.converter:Converter.to_opus",
        "pipeline.audio.converter:Converter.together",
        "pipeline.unpack.conversion_pool:Conversions._convert",
        "pipeline.store.database:Database.fail_file",
        "pipeline.jobs.batches:Batches.settle",
        "pipeline.jobs.batches:Batches.push",
        "unpack_worker:Unpacker._unpack",
        "pipeline.jobs.batches:Batches.abandon",
        "pipeline.foundation.scratch:remove_archive",
        "unpack_worker:Unpacker._fail_the_rest",
        "unpack_worker:Unpacker.fail_permanently",
        "pipeline.foundation.scratch:sweep",
        "pipeline.jobs.lost_hosts:LostHosts.take_over",
        "pipeline.jobs.batches:Batches.take_in",
        "pipeline.operations.self_repair:SelfRepair._begin",
        "pipeline.operations.self_repair:SelfRepair._repair",
        "pipeline.operations.self_repair:SelfRepair._note_stranded",
        "pipeline.operations.self_repair:SelfRepair._end",
        "pipeline.operations.webhook_delivery:WebhookDelivery._has_turn",
        "pipeline.operations.webhook_delivery:WebhookDelivery._end_turn",
        "pipeline.store.webhook_outbox:note_dead_letters",
        "pipeline.store.webhook_outbox:prune",
        "pipeline.store.webhook_outbox:claim",
        "pipeline.foundation.webhook_request:Receiver.send",
        "pipeline.store.webhook_outbox:mark_delivered",
        "pipeline.store.webhook_outbox:mark_failed",
        "pipeline.store.batch_states:unfinish",
        "pipeline.jobs.batches:Batches.requeue",
    ),
    "gpu": (
        *_EVERY_WORKER,
        *_FINISHING,
        *_CONVERTING,
        "pipeline.audio.decoder:Decoder.blocks",
        "pipeline.jobs.job_queue:JobQueue.give_back",
        "pipeline.jobs.batches:Batches.check_queue",
        "pipeline.jobs.batches:Batches.enter_queue",
        "pipeline.store.database:Database.start_file",
        "pipeline.speech.whisper:Whisper.decode",
        "pipeline.speech.transcriber:Transcriber._end_channel",
        "pipeline.store.database:Database.save_result",
        "pipeline.store.database:Database.index_transcripts",
        "s3_utils:upload_opus",
        "pipeline.store.transcript_files:TranscriptFiles.keep",
        "pipeline.store.database:Database.update_audio_s3_path",
        "pipeline.jobs.batches:Batches.settle_job",
        "pipeline.store.database:Database.fail_file",
        "pipeline.jobs.crash_loop:CrashLoop.count_run",
        "pipeline.jobs.crash_loop:CrashLoop.forgive_runs",
        "gpu_worker:TranscriptionWorker.fail_permanently",
    ),
}


@dataclass(frozen=True)
class Point:
    """One place: before or after a function of a worker."""

    role: str
    function: str
    when: str

    def __str__(self) -> str:
        return f"{self.role}: {self.when} {self.function.partition(':')[2]}"


def points(role: str) -> list[Point]:
    """All of a worker's points, in the order of its functions."""
    return [Point(role, function, when) for function in FUNCTIONS[role] for when in ("before", "after")]
