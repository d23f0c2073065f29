-- name: move
-- The guarded move of a status, for transactions that are one message (see migrations.move for all others).
-- idempotent: no: a second one finds another status and fails.
DO $move$
BEGIN
  UPDATE migrator.migrations
     SET status = {new}, paused_from = NULL, reason = NULL, since = now(), binding = NULL,
         live_side = {live_side}, epoch = epoch + {swaps}, started_at = coalesce(started_at, now()),
         finished_at = CASE WHEN {final} THEN now() END
   WHERE id = {migration_id} AND status = {old} AND epoch = {epoch} AND (capture_off_at IS NULL OR {swaps} = 0);
  IF NOT FOUND THEN
    RAISE EXCEPTION 'migrator: the migration is not % any more', {old} USING ERRCODE = 'MG001';
  END IF;
  INSERT INTO migrator.transitions (migration_id, from_status, to_status, reason, actor)
  VALUES ({migration_id}, {old}, {new}, {why}, {actor});
  INSERT INTO migrator.hook_events (event_id, migration_id, event, channel, status, reason)
  SELECT {event_id}::uuid, {migration_id}, {event}, channel, {new}, {why} FROM unnest({channels}::text[]) AS channel;
END
$move$
