package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"maunium.net/go/mautrix/crypto/backup"
	"maunium.net/go/mautrix/crypto/ssss"
	"maunium.net/go/mautrix/crypto/verificationhelper"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
)

// verification is the latest one; guarded by the client's mutex.
type verification struct {
	id    id.VerificationTransactionID
	phase string
	code  event.VerificationCancelCode
	emoji []string
	qr    []byte // the code that is shown
	// Whether the other side has scanned it.
	scanned bool
	with    id.UserID
	asked   bool // by the other side
}

// callbacks are called by the library as a verification goes on.
type callbacks struct{ *client }

func (c callbacks) VerificationRequested(_ context.Context, txn id.VerificationTransactionID, from id.UserID, _ id.DeviceID) {
	c.Lock()
	defer c.Unlock()
	c.verification = verification{id: txn, phase: "requested", with: from, asked: true}
}

func (c callbacks) VerificationReady(
	_ context.Context, txn id.VerificationTransactionID, _ id.DeviceID, _, _ bool, qr *verificationhelper.QRCode,
) {
	c.during(txn, func(v *verification) { v.phase, v.qr = "ready", qr.Bytes() })
}

func (c callbacks) QRCodeScanned(_ context.Context, txn id.VerificationTransactionID) {
	c.during(txn, func(v *verification) { v.phase, v.scanned = "started", true })
}

func (c callbacks) VerificationCancelled(
	_ context.Context, txn id.VerificationTransactionID, code event.VerificationCancelCode, _ string,
) {
	c.during(txn, func(v *verification) { v.phase, v.code = "cancelled", code })
}

func (c callbacks) VerificationDone(_ context.Context, txn id.VerificationTransactionID, _ event.VerificationMethod) {
	c.during(txn, func(v *verification) { v.phase = "done" })
}

func (c callbacks) ShowSAS(_ context.Context, txn id.VerificationTransactionID, emoji []rune, _ []string, _ []int) {
	c.during(txn, func(v *verification) {
		v.phase, v.emoji = "started", nil
		for _, one := range emoji {
			if one != '\uFE0F' {
				v.emoji = append(v.emoji, string(one))
			}
		}
	})
}

func (c callbacks) during(txn id.VerificationTransactionID, change func(*verification)) {
	c.Lock()
	defer c.Unlock()
	if c.verification.id == txn {
		change(&c.verification)
	}
}

func startVerification(c *client, d data) (any, error) {
	user := c.session.UserID
	if d.UserID != "" {
		user = full(d.UserID)
	}
	// The library sends the request before it returns its id.
	txn, err := c.verify.StartVerification(c.ctx, user)
	if err != nil {
		return nil, err
	}
	c.Lock()
	defer c.Unlock()
	c.verification = verification{id: txn, phase: "requested", with: user}
	return nil, nil
}

// accept waits for a request and accepts it.
func (c *client) accept() (txn id.VerificationTransactionID, err error) {
	err = c.until("a verification request", func() bool {
		txn = c.verification.id
		return c.verification.asked && c.verification.phase == "requested"
	}, c.phase)
	if err == nil {
		err = c.verify.AcceptVerification(c.ctx, txn)
	}
	return txn, err
}

func acceptVerification(c *client, _ data) (any, error) {
	txn, err := c.accept()
	if err != nil {
		return nil, err
	}
	if err = c.verify.StartSAS(c.ctx, txn); err != nil {
		return nil, err
	}
	_, err = c.emoji()
	return nil, err
}

// emoji waits for the emoji; it fails if the verification is cancelled.
func (c *client) emoji() (shown []string, err error) {
	cancelled := false
	err = c.until("emoji", func() bool {
		shown, cancelled = c.verification.emoji, c.verification.phase == "cancelled"
		return shown != nil || cancelled
	}, c.phase)
	if err == nil && cancelled {
		err = fmt.Errorf("the verification was cancelled: %s", c.verification.code)
	}
	return shown, err
}

func (c *client) phase() string {
	return "a verification that is " + cmp.Or(c.verification.phase, "not begun")
}

func getEmoji(c *client, _ data) (any, error) {
	shown, err := c.emoji()
	return object{"emoji": shown}, err
}

func confirmEmoji(c *client, _ data) (any, error) {
	if _, err := c.emoji(); err != nil {
		return nil, err
	}
	if err := c.verify.ConfirmSAS(c.ctx, c.verification.id); err != nil {
		return nil, err
	}
	return nil, c.reach("done")
}

// reach waits for a phase of the verification.
func (c *client) reach(phase string) error {
	return c.until("a verification that is "+phase, func() bool { return c.verification.phase == phase }, c.phase)
}

func showQRCode(c *client, _ data) (any, error) {
	if _, err := c.accept(); err != nil {
		return nil, err
	}
	if c.verification.qr == nil {
		return nil, unsupported("the other side scans no QR codes")
	}
	return object{"qr_code": c.verification.qr}, nil
}

func scanQRCode(c *client, d data) (any, error) {
	if err := c.reach("ready"); err != nil {
		return nil, err
	}
	return nil, c.verify.HandleScannedQRData(c.ctx, d.QRCode)
}

func confirmQRCode(c *client, _ data) (any, error) {
	err := c.until("a scan of the QR code", func() bool { return c.verification.scanned }, c.phase)
	if err != nil {
		return nil, err
	}
	if err = c.verify.ConfirmQRCodeScanned(c.ctx, c.verification.id); err != nil {
		return nil, err
	}
	return nil, c.reach("done")
}

func rejectEmoji(c *client, _ data) (any, error) {
	if _, err := c.emoji(); err != nil {
		return nil, err
	}
	return nil, c.cancelVerification(event.VerificationCancelCodeSASMismatch, "the emoji do not match")
}

func cancelVerification(c *client, _ data) (any, error) {
	err := c.until("a verification", func() bool {
		phase := c.verification.phase
		return phase == "requested" || phase == "ready" || phase == "started"
	}, c.phase)
	if err != nil {
		return nil, err
	}
	return nil, c.cancelVerification(event.VerificationCancelCodeUser, "cancelled by the user")
}

func (c *client) cancelVerification(code event.VerificationCancelCode, reason string) error {
	if err := c.verify.CancelVerification(c.ctx, c.verification.id, code, reason); err != nil {
		return err
	}
	c.Lock()
	defer c.Unlock()
	c.verification.phase, c.verification.code = "cancelled", code
	return nil
}

func getVerification(c *client, _ data) (any, error) {
	c.Lock()
	defer c.Unlock()
	if c.verification.phase == "" {
		return object{"verification": object{"phase": "none"}}, nil
	}
	shown := object{"phase": c.verification.phase}
	if c.verification.code != "" {
		shown["cancel_code"] = c.verification.code
	}
	return object{"verification": shown}, nil
}

func getTrust(c *client, d data) (any, error) {
	trust, err := c.trust(full(d.UserID))
	return object{"trust": trust}, err
}

func (c *client) trust(user id.UserID) (string, error) {
	machine := c.crypto.Machine()
	if _, err := machine.FetchKeys(c.ctx, []id.UserID{user}, true); err != nil {
		return "", err
	}
	keys, err := machine.CryptoStore.GetCrossSigningKeys(c.ctx, user)
	if err != nil {
		return "", err
	}
	master, known := keys[id.XSUsageMaster]
	if !known {
		return "unknown", nil
	}
	trusted, err := machine.IsUserTrusted(c.ctx, user)
	switch {
	case trusted:
		return "verified", err
	case master.Key != master.First:
		return "changed", err
	default:
		return "unverified", err
	}
}

func verifyTrusted(c *client, _ data) (any, error) {
	user := c.session.UserID
	c.Lock()
	if c.open != "" {
		for _, evt := range c.room(c.open).state {
			if evt.Type == event.StateMember && *evt.StateKey != user.String() && evt.Content.AsMember().Membership == event.MembershipJoin {
				user = id.UserID(*evt.StateKey)
				break
			}
		}
	}
	c.Unlock()
	trust, err := c.trust(user)
	if err == nil && trust != "verified" {
		err = fmt.Errorf("expected %s to be verified; is %s", user, trust)
	}
	return nil, err
}

func resetIdentity(c *client, _ data) (any, error) { return nil, c.newIdentity() }

// newIdentity makes and uploads the user's cross-signing keys, and signs this device with them.
func (c *client) newIdentity() error {
	machine := c.crypto.Machine()
	if _, _, err := machine.GenerateAndUploadCrossSigningKeysWithPassword(c.ctx, c.session.Password, ""); err != nil {
		return err
	}
	if err := machine.SignOwnDevice(c.ctx, machine.OwnIdentity()); err != nil {
		return err
	}
	return machine.SignOwnMasterKey(c.ctx)
}

func blockDevice(c *client, d data) (any, error) {
	machine := c.crypto.Machine()
	device, err := machine.GetOrFetchDevice(c.ctx, full(d.UserID), id.DeviceID(d.DeviceID))
	if err != nil {
		return nil, err
	}
	device.Trust = id.TrustStateBlacklisted
	if err = machine.CryptoStore.PutDevice(c.ctx, full(d.UserID), device); err != nil {
		return nil, err
	}
	return nil, c.discardRoomKeys()
}

func excludeInsecure(c *client, _ data) (any, error) {
	c.crypto.Machine().SendKeysMinTrust = id.TrustStateCrossSignedTOFU
	return nil, c.discardRoomKeys()
}

// discardRoomKeys makes the next message of every room have a new key, which excluded devices do not get.
func (c *client) discardRoomKeys() (err error) {
	for roomID := range c.rooms {
		err = errors.Join(err, c.crypto.Machine().CryptoStore.RemoveOutboundGroupSession(c.ctx, roomID))
	}
	return err
}

// advanceClock makes the outbound sessions older, which is all that the clock decides.
func advanceClock(c *client, d data) (any, error) {
	store := c.crypto.Machine().CryptoStore
	for roomID := range c.rooms {
		session, err := store.GetOutboundGroupSession(c.ctx, roomID)
		if err != nil {
			return nil, err
		} else if session == nil {
			continue
		}
		session.CreationTime = session.CreationTime.Add(-time.Duration(d.Milliseconds) * time.Millisecond)
		if err = store.AddOutboundGroupSession(c.ctx, session); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

func restoreKeyBackup(c *client, d data) (any, error) {
	keyID, key, err := c.crypto.Machine().SSSS.GetDefaultKeyData(c.ctx)
	if err != nil {
		return nil, err
	}
	secret, err := key.VerifyRecoveryKey(keyID, d.RecoveryKey)
	if err != nil {
		return nil, err
	}
	return nil, c.restore(secret)
}

// restore takes the identity and the room keys from secret storage and the backup.
func (c *client) restore(secret *ssss.Key) error {
	machine := c.crypto.Machine()
	if err := machine.FetchCrossSigningKeysFromSSSS(c.ctx, secret); err != nil {
		return err
	}
	if err := machine.SignOwnDevice(c.ctx, machine.OwnIdentity()); err != nil {
		return err
	}
	raw, err := machine.SSSS.GetDecryptedAccountData(c.ctx, event.AccountDataMegolmBackupKey, secret)
	if err != nil {
		return err
	}
	key, err := backup.MegolmBackupKeyFromBytes(raw)
	if err != nil {
		return err
	}
	version, err := machine.DownloadAndStoreLatestKeyBackup(c.ctx, key)
	if err == nil && version == "" {
		err = errors.New("the account has no key backup")
	}
	if err == nil {
		c.decryptAgain()
	}
	return err
}

func deleteKeyBackup(c *client, _ data) (any, error) {
	version, err := c.matrix.GetKeyBackupLatestVersion(c.ctx)
	if err != nil {
		return nil, err
	}
	return nil, c.matrix.DeleteKeyBackupVersion(c.ctx, version.Version)
}
