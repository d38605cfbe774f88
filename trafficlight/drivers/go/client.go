package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"go.mau.fi/util/dbutil"
	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/crypto/cryptohelper"
	"maunium.net/go/mautrix/crypto/verificationhelper"
	"maunium.net/go/mautrix/id"
	_ "modernc.org/sqlite"
)

const longestWait = 25 * time.Second

// wait is how long the waits of the action that is performed may take.
var wait = longestWait

// limitWaits sets it by the action's deadline, in seconds: the host kills a driver that is late.
func limitWaits(deadline float64) {
	wait = longestWait
	if deadline > 0 {
		wait = min(wait, time.Duration(0.8*deadline*float64(time.Second)))
	}
}

// session is what a restarted process needs to go on as the same device.
type session struct {
	Homeserver, AccessToken, Password string
	UserID                            id.UserID
	DeviceID                          id.DeviceID
}

// client is a device of one user. An action returns when its effect is visible in it.
type client struct {
	storage string
	session session
	matrix  *mautrix.Client
	crypto  *cryptohelper.CryptoHelper
	verify  *verificationhelper.VerificationHelper
	cancel  context.CancelFunc
	ctx     context.Context

	// Held while a response is taken.
	syncing sync.Mutex

	// What the sync has brought; guarded by the mutex.
	sync.Mutex
	synced  bool
	rooms   map[id.RoomID]*room
	invites []id.RoomID
	open    id.RoomID

	verification verification

	// Where the sync is, and with it what it has brought; kept over a reload, as an app's storage does.
	store *mautrix.MemorySyncStore
}

// resume goes on with the session in the storage, if there is one.
func (c *client) resume() error {
	saved, err := os.ReadFile(c.sessionFile())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	} else if err = json.Unmarshal(saved, &c.session); err != nil {
		return err
	}
	if c.matrix, err = mautrix.NewClient(c.session.Homeserver, c.session.UserID, c.session.AccessToken); err != nil {
		return err
	}
	c.matrix.DeviceID = c.session.DeviceID
	return c.start()
}

func (c *client) sessionFile() string { return filepath.Join(c.storage, "session.json") }

func register(c *client, d data) (any, error) {
	err := c.enter(d, func(matrix *mautrix.Client) error {
		registered, err := matrix.RegisterDummy(c.ctx, &mautrix.ReqRegister[any]{Username: d.Username, Password: d.Password})
		if err == nil {
			matrix.UserID, matrix.DeviceID, matrix.AccessToken = registered.UserID, registered.DeviceID, registered.AccessToken
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return nil, c.newIdentity()
}

func login(c *client, d data) (any, error) {
	err := c.enter(d, func(matrix *mautrix.Client) error {
		_, err := matrix.Login(c.ctx, &mautrix.ReqLogin{
			Type:             mautrix.AuthTypePassword,
			Identifier:       mautrix.UserIdentifier{Type: mautrix.IdentifierTypeUser, User: d.Username},
			Password:         d.Password,
			StoreCredentials: true,
		})
		return err
	})
	if err != nil || d.Passphrase == "" {
		return nil, err
	}
	machine := c.crypto.Machine()
	keyID, key, err := machine.SSSS.GetDefaultKeyData(c.ctx)
	if err != nil {
		return nil, err
	}
	secret, err := key.VerifyPassphrase(keyID, d.Passphrase)
	if err != nil {
		return nil, err
	}
	return nil, c.restore(secret)
}

func logout(c *client, _ data) (any, error) {
	if _, err := c.matrix.Logout(c.ctx); err != nil {
		return nil, err
	}
	return nil, c.forget()
}

func reload(c *client, _ data) (any, error) {
	open := c.open
	c.stop()
	if err := c.resume(); err != nil || open == "" {
		return nil, err
	}
	return nil, c.show(open)
}

func setDisplayName(c *client, d data) (any, error) {
	return nil, c.matrix.SetDisplayName(c.ctx, d.Name)
}

func getDevices(c *client, _ data) (any, error) {
	listed, err := c.matrix.GetDevicesInfo(c.ctx)
	if err != nil {
		return nil, err
	}
	devices := []object{}
	for _, one := range listed.Devices {
		device, err := c.crypto.Machine().GetOrFetchDevice(c.ctx, c.matrix.UserID, one.DeviceID)
		verified := err == nil && c.crypto.Machine().IsDeviceTrusted(c.ctx, device)
		devices = append(devices, object{"device_id": one.DeviceID, "display_name": one.DisplayName, "verified": verified})
	}
	return object{"devices": devices}, nil
}

func logOutDevice(c *client, d data) (any, error) {
	auth := any(object{
		"type":       mautrix.AuthTypePassword,
		"identifier": object{"type": mautrix.IdentifierTypeUser, "user": c.matrix.UserID},
		"password":   c.session.Password,
	})
	return nil, c.matrix.DeleteDevice(c.ctx, id.DeviceID(d.DeviceID), &mautrix.ReqDeleteDevice[any]{Auth: auth})
}

// enter logs in as a new device, with an empty store.
func (c *client) enter(d data, sign func(*mautrix.Client) error) (err error) {
	if err = c.forget(); err != nil {
		return err
	}
	if c.matrix, err = mautrix.NewClient(d.HomeserverURL.Local, "", ""); err != nil {
		return err
	}
	if err = sign(c.matrix); err != nil {
		return err
	}
	c.session = session{d.HomeserverURL.Local, c.matrix.AccessToken, d.Password, c.matrix.UserID, c.matrix.DeviceID}
	saved, _ := json.Marshal(c.session)
	if err = os.WriteFile(c.sessionFile(), saved, 0o600); err != nil {
		return err
	}
	return c.start()
}

// start syncs, from the beginning in a new process: what rooms look like is kept in memory only, keys are in the store.
func (c *client) start() error {
	c.open, c.synced, c.verification = "", c.store != nil, verification{}
	if c.store == nil {
		c.rooms, c.invites, c.store = map[id.RoomID]*room{}, nil, mautrix.NewMemorySyncStore()
	}
	c.matrix.Log = zerolog.New(os.Stderr).Level(zerolog.WarnLevel)
	options := "_pragma=foreign_keys(1)&_pragma=journal_mode(WAL)&_pragma=busy_timeout(5000)&_txlock=immediate"
	raw, err := sql.Open("sqlite", "file:"+filepath.Join(c.storage, "client.db")+"?"+options)
	if err != nil {
		return err
	}
	database, err := dbutil.NewWithDB(raw, "sqlite")
	if err != nil {
		return err
	}
	if c.crypto, err = cryptohelper.NewCryptoHelper(c.matrix, []byte("trafficlight"), database); err != nil {
		return err
	}
	if err = c.crypto.Init(c.ctx); err != nil {
		return err
	}
	c.matrix.Crypto = c.crypto
	c.matrix.Store = c.store
	c.crypto.DecryptErrorCallback = c.notDecrypted
	c.verify = verificationhelper.NewVerificationHelper(c.matrix, c.crypto.Machine(), nil, callbacks{c}, true, true, true)
	if err = c.verify.Init(c.ctx); err != nil {
		return err
	}
	events := c.matrix.Syncer.(*mautrix.DefaultSyncer)
	c.follow(events)
	c.matrix.Syncer = &syncer{events, c}
	ctx, cancel := context.WithCancel(c.ctx)
	c.cancel = cancel
	go func() {
		if err := c.matrix.SyncWithContext(ctx); err != nil && !errors.Is(err, context.Canceled) {
			fmt.Fprintln(os.Stderr, "syncing ended:", err)
		}
	}()
	return c.until("the first sync", func() bool { return c.synced }, nil)
}

// syncer takes the response of a sync as a whole: an action that follows one that saw a part of it waits for the rest.
type syncer struct {
	*mautrix.DefaultSyncer
	client *client
}

func (s *syncer) ProcessResponse(ctx context.Context, response *mautrix.RespSync, since string) error {
	s.client.syncing.Lock()
	defer s.client.syncing.Unlock()
	err := s.DefaultSyncer.ProcessResponse(ctx, response, since)
	s.client.Lock()
	s.client.synced = true
	s.client.Unlock()
	return err
}

// stop ends syncing and closes the store.
func (c *client) stop() {
	if c.cancel != nil {
		c.cancel()
		_ = c.crypto.Close()
		c.cancel = nil
	}
}

// forget stops, and deletes the session and its store.
func (c *client) forget() error {
	c.stop()
	c.matrix, c.session, c.store = nil, session{}, nil
	entries, err := os.ReadDir(c.storage)
	for _, entry := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(c.storage, entry.Name())))
	}
	return err
}

// until waits until something is seen; the error says what there is instead. It holds the mutex meanwhile.
func (c *client) until(what string, see func() bool, seen func() string) error {
	end := time.Now().Add(wait)
	for {
		c.Lock()
		found, there := see(), ""
		late := time.Now().After(end)
		if late && seen != nil {
			there = "; there is " + seen()
		}
		c.Unlock()
		if found {
			return nil
		} else if late {
			return fmt.Errorf("expected %s within %s%s", what, wait, there)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// full returns a user id with its leading @, which the wire may leave out.
func full(user string) id.UserID {
	return id.UserID("@" + strings.TrimPrefix(user, "@"))
}
