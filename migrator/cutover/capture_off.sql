-- Taking the capture off, and putting it on again: whose turn it is.

-- name: turn
-- Under the lock: nobody took it off or put it on since this was prepared; and who comes later finds another turn. The
-- migration's row is held until commit, so nobody moves it meanwhile either.
-- idempotent: no: a second one finds another turn and fails.
DO $turn$
BEGIN
  UPDATE migrator.migrations SET capture_turn = capture_turn + 1
   WHERE id = {migration_id} AND capture_turn = {turn} AND epoch = {epoch} AND status = {status}
     AND capture_off_at IS NOT NULL;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'migrator: capture was taken off or put on meanwhile' USING ERRCODE = 'MG001';
  END IF;
END
$turn$

-- name: acts
-- Whether a trigger of ours does anything. Every function of ours is SECURITY DEFINER, and the blank that stands in its
-- place is not.
-- locks: none.
SELECT EXISTS (SELECT FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
                WHERE t.tgrelid = %(oid)s AND t.tgname LIKE '%%\_\_migrator' AND NOT t.tgisinternal
                  AND p.prosecdef) AS acts
