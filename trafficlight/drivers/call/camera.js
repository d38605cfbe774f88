// Runs first in each frame. In place of a camera and a screen: plain pictures, whose colours the page says.
export default function () {
    const devices = navigator.mediaDevices;
    if (!devices) return;
    // Small and slow: several browsers on one machine encode, decode and draw it.
    const [width, height, fps] = [320, 180, 5];

    function picture(name) {
        const canvas = Object.assign(document.createElement("canvas"), { width, height });
        const context = canvas.getContext("2d");
        const [track] = canvas.captureStream(fps).getVideoTracks();
        let frame = 0;
        const drawing = setInterval(() => {
            if (track.readyState === "ended") return clearInterval(drawing);
            context.fillStyle = parent.app[name];
            context.fillRect(0, 0, width, height);
            // Only a canvas that changes has a next frame.
            context.fillStyle = "white";
            context.fillRect(frame++ % width, 0, 4, 4);
        }, 1000 / fps);
        return track;
    }

    const real = devices.getUserMedia.bind(devices);
    devices.getUserMedia = async (wanted) => {
        const stream = await real(wanted);
        if (!wanted.video) return stream;
        for (const track of stream.getVideoTracks()) track.stop();
        return new MediaStream([...stream.getAudioTracks(), picture("picture")]);
    };
    devices.getDisplayMedia = async () => new MediaStream([picture("screen")]);
}
